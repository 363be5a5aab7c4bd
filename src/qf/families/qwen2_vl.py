"""Qwen2-VL's decoder: built like Qwen2; its positions, of three kinds, tell no sequences apart."""

from qf.families.base import Family

FAMILY = Family(
    "qwen2_vl_text", ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct"), packed=False
)
