"""GLM-4.5 to 4.7, whose experts have a shared one, in all layers but the first."""

from qf.families.bases.shared import Shared

FAMILY = Shared("glm4_moe", ("zai-org/GLM-4.5-Air",))
