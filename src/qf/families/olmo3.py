"""OLMo 3: built like OLMo 2, with a sliding window in most layers."""

from qf.families.bases.normed import Normed

FAMILY = Normed("olmo3", ("allenai/Olmo-3-7B-Instruct",), v="mlp")
