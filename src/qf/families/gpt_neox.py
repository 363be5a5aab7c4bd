"""GPT-NeoX and Pythia: attention and MLP side by side, or in turn (use_parallel_residual)."""

from qf.families.bases.parallel import Parallel

FAMILY = Parallel(
    "gpt_neox",
    ("EleutherAI/pythia-410m", "EleutherAI/gpt-neox-20b"),
    W="mlp.dense_4h_to_h",
    attention="attention",
)
