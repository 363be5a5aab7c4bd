"""GPT-J, one norm for attention and MLP; not every version keeps packed sequences apart."""

from qf.families.bases.parallel import Parallel

FAMILY = Parallel(
    "gptj",
    ("EleutherAI/gpt-j-6b",),
    stack="h",
    W="mlp.fc_out",
    v="ln_1",
    attention="attn",
    packed=False,
)
