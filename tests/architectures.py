"""What the random models of the tests are built like."""

from typing import Any

KINDS = ("qwen2", "qwen3", "llama", "mistral")

# The rotary angles of height and width, of the 4 that a head of 8 has.
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}

# Four experts of 16, of which each token goes through two; DeepSeek's attention has small parts.
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROUTED = {
    **_EXPERTS,
    "n_routed_experts": 4,
    "n_shared_experts": 6,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
_DEEPSEEK = {
    **_ROUTED,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_QWEN_MOE = {**_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 96}
_GRANITE = {
    "residual_multiplier": 0.22,
    "logits_scaling": 3.0,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "intermediate_size": 16,
    "shared_intermediate_size": 96,
}
_HYBRID = {
    **_GRANITE,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "mamba_n_heads": 4,
    "mamba_d_state": 8,
}

# Every family, those of several forms in each: (model type, what its configuration has besides).
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in KINDS},
    "bloom": ("bloom", {}),
    "cohere": ("cohere", {"logit_scale": 0.5}),
    "cohere2": ("cohere2", {"logit_scale": 0.5, "sliding_window": 16}),
    "deepseek_v2": ("deepseek_v2", _DEEPSEEK),
    "deepseek_v3": ("deepseek_v3", _DEEPSEEK),
    "dots1": ("dots1", _ROUTED),
    "ernie4_5_moe": (
        "ernie4_5_moe",
        {"moe_intermediate_size": 48, "moe_k": 2, "moe_num_experts": 4, "moe_layer_end_index": 3},
    ),
    "falcon-side-by-side": ("falcon", {"bias": True}),
    "falcon-two-norms": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-in-turn": ("falcon", {"parallel_attn": False, "alibi": True, "multi_query": False}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": ("gemma2", {"head_dim": 16, "sliding_window": 16, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": 16}),
    "glm4_moe": ("glm4_moe", {**_ROUTED, "head_dim": 16}),
    "gpt2": ("gpt2", {"n_inner": 96}),
    "gpt_neox-side-by-side": ("gpt_neox", {}),
    "gpt_neox-in-turn": ("gpt_neox", {"use_parallel_residual": False}),
    "gptj": ("gptj", {"n_inner": 96, "rotary_dim": 4}),
    "granite": ("granite", {"residual_multiplier": 0.22, "logits_scaling": 3.0}),
    "granitemoehybrid": ("granitemoehybrid", _HYBRID),
    "granitemoehybrid-dense": (
        "granitemoehybrid",
        {**_HYBRID, "num_local_experts": 0, "layer_types": ["full_attention"] * 4},
    ),
    "granitemoeshared": ("granitemoeshared", _GRANITE),
    "llama4": ("llama4_text", {"intermediate_size": 96, "num_local_experts": 4, "head_dim": 8}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": 16}),
    "opt": ("opt", {"ffn_dim": 96}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
    "qwen2_vl": ("qwen2_vl_text", {"rope_parameters": MROPE}),
    "qwen2_5_vl": ("qwen2_5_vl_text", {"rope_parameters": MROPE}),
    "qwen2_moe": ("qwen2_moe", _QWEN_MOE),
    "qwen2_moe-dense": ("qwen2_moe", {**_QWEN_MOE, "mlp_only_layers": [0, 1, 2, 3]}),
    "qwen3_next": ("qwen3_next", {**_QWEN_MOE, "head_dim": 16}),
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
