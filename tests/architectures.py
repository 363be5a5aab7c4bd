"""What the random models of the tests are built like."""

from typing import Any

KINDS = ("qwen2", "qwen3", "llama", "mistral")

# The rotary angles of height and width, of the 4 that a head of 8 has.
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}

# Every family, those of several forms in each: (model type, what its configuration has besides).
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in KINDS},
    "bloom": ("bloom", {}),
    "cohere": ("cohere", {"logit_scale": 0.5}),
    "cohere2": ("cohere2", {"logit_scale": 0.5, "sliding_window": 16}),
    "falcon-side-by-side": ("falcon", {"bias": True}),
    "falcon-two-norms": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-in-turn": ("falcon", {"parallel_attn": False, "alibi": True, "multi_query": False}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 16, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": 16}),
    "gpt2": ("gpt2", {"n_inner": 96}),
    "gpt_neox-side-by-side": ("gpt_neox", {}),
    "gpt_neox-in-turn": ("gpt_neox", {"use_parallel_residual": False}),
    "gptj": ("gptj", {"n_inner": 96, "rotary_dim": 4}),
    "granite": ("granite", {"residual_multiplier": 0.22, "logits_scaling": 3.0}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": 16}),
    "opt": ("opt", {"ffn_dim": 96}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
    "qwen2_vl": ("qwen2_vl_text", {"rope_parameters": MROPE}),
    "qwen2_5_vl": ("qwen2_5_vl_text", {"rope_parameters": MROPE}),
    "smollm3": ("smollm3", {}),
    "smolvlm": ("llama", {}),
    "idefics3": ("llama", {}),
    "starcoder2": ("starcoder2", {}),
}
EAGER = {"bloom", "gemma2", "gptj"}  # whose attention has no other implementation

# Vision-language models: what their vision towers are like. A patch is 4 by 4 pixels, and 2 by 2
# patches come to one token.
_TOWER = {"num_heads": 2, "patch_size": 4, "initializer_range": 0.25}
_QWEN = {**_TOWER, "depth": 2, "spatial_merge_size": 2, "temporal_patch_size": 2}
_SIGLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "initializer_range": 0.25,
}
_QWEN_2_5 = {
    **_QWEN,
    "hidden_size": 16,
    "intermediate_size": 32,
    "out_hidden_size": 32,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}
PICTURED: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"vision_config": {**_QWEN, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}},
    "qwen2_5_vl": {"vision_config": _QWEN_2_5},
    "smolvlm": {"vision_config": _SIGLIP, "scale_factor": 2},
    "idefics3": {"vision_config": _SIGLIP, "scale_factor": 2},
}
