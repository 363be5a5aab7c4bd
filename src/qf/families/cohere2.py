"""Command R7B and A: as Command R, with a sliding window in most layers."""

from qf.families.cohere import Cohere

FAMILY = Cohere("cohere2", ("CohereLabs/c4ai-command-r7b-12-2024",))
