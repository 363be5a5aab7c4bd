"""GPT-2, whose projections are `Conv1D`: they store W transposed."""

from qf.families.base import Family

FAMILY = Family(
    "gpt2",
    ("openai-community/gpt2", "openai-community/gpt2-xl"),
    stack="h",
    W="mlp.c_proj",
    v="ln_2",
)
