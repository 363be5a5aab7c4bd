"""ERNIE 4.5 with experts: the shared one runs before the others."""

from qf.families.bases.shared import Shared

FAMILY = Shared("ernie4_5_moe", ("baidu/ERNIE-4.5-21B-A3B-PT",), size="moe_num_shared_experts")
