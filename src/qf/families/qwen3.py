"""Qwen3, dense: it norms queries and keys inside the attention, which the method does not touch."""

from qf.families.base import Family

FAMILY = Family("qwen3", ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B"))
