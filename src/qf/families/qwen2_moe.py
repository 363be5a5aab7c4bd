"""Qwen1.5-MoE and Qwen2-57B-A14B: their shared expert has a gate of its own."""

from qf.families.bases.shared import Shared

FAMILY = Shared(
    "qwen2_moe",
    ("Qwen/Qwen1.5-MoE-A2.7B-Chat", "Qwen/Qwen2-57B-A14B-Instruct"),
    W="mlp.shared_expert.down_proj",
    gate="mlp.shared_expert_gate",
    size="shared_expert_intermediate_size",
    by_parameter=False,
)
