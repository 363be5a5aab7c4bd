"""Qwen3-Next: experts as in Qwen2; most layers have a state along the row in place of attention."""

from qf.families.bases.shared import Shared

FAMILY = Shared(
    "qwen3_next",
    ("Qwen/Qwen3-Next-80B-A3B-Instruct",),
    W="mlp.shared_expert.down_proj",
    gate="mlp.shared_expert_gate",
    size="shared_expert_intermediate_size",
    packed=False,
)
