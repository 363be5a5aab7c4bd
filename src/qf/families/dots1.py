"""dots.llm1, whose experts have a shared one, in all layers but the first."""

from qf.families.bases.shared import Shared

FAMILY = Shared("dots1", ("rednote-hilab/dots.llm1.inst",))
