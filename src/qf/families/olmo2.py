"""OLMo 2: a norm after the MLP and none in front of it, so that v is the MLP's own input."""

from qf.families.bases.normed import Normed

FAMILY = Normed("olmo2", ("allenai/OLMo-2-0425-1B-Instruct",), v="mlp")
