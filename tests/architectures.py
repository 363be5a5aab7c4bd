"""What the random models of the tests are built like."""

from typing import Any

KINDS = ("qwen2", "qwen3", "llama", "mistral")

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
    "smollm3": ("smollm3", {}),
    "starcoder2": ("starcoder2", {}),
}
EAGER = {"bloom", "gemma2", "gptj"}  # whose attention has no other implementation
