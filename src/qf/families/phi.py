"""Phi-1, Phi-1.5 and Phi-2: attention and MLP side by side, one norm for both."""

from qf.families.bases.parallel import Parallel

FAMILY = Parallel("phi", ("microsoft/phi-2", "microsoft/phi-1_5"), W="mlp.fc2")
