"""DeepSeek-V2, whose experts have a shared one, in all layers but the first."""

from qf.families.bases.shared import Shared

FAMILY = Shared("deepseek_v2", ("deepseek-ai/DeepSeek-V2-Lite-Chat",))
