"""StarCoder2: an MLP without a gate, and W with a bias."""

from qf.families.base import Family

FAMILY = Family("starcoder2", ("bigcode/starcoder2-3b",), W="mlp.c_proj")
