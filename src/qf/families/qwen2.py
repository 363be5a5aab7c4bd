"""Qwen2 and Qwen2.5, the architecture of the paper's model and of the embedded one."""

from qf.families.base import Family

FAMILY = Family("qwen2", ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"))
