"""DeepSeek-V3 and R1: as DeepSeek-V2, and the first layers have no experts."""

from qf.families.bases.shared import Shared

FAMILY = Shared("deepseek_v3", ("deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1"))
