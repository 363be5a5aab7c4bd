"""Qwen2 and Qwen2.5, the architecture of the paper's model and of the embedded one."""

from qf.families.base import Family

FAMILY = Family("qwen2")
