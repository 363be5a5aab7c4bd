"""Qwen2.5-VL's decoder: built like that of Qwen2-VL."""

from qf.families.base import Family

FAMILY = Family(
    "qwen2_5_vl_text", ("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"), packed=False
)
