"""GPT-2, whose projections are `Conv1D`: they store W transposed, (D, N)."""

from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qf.families.base import Family


class GPT2(Family):
    """W is read and written through its transpose."""

    def shape(self, projection: nn.Module) -> tuple[int, int]:
        """Return (N, D)."""
        module: Any = projection
        return module.nf, module.nx

    def weight(self, projection: nn.Module) -> Tensor:
        """Return the stored matrix, seen as (N, D)."""
        return super().weight(projection).T

    def put(self, projection: nn.Module, W: Tensor) -> None:
        """Let W, (N, D), be the projection's, seen as (D, N)."""
        super().put(projection, W.T)

    def _linear(self) -> type[nn.Module]:
        return Conv1D


FAMILY = GPT2(
    "gpt2",
    ("openai-community/gpt2", "openai-community/gpt2-xl"),
    stack="h",
    W="mlp.c_proj",
    v="ln_2",
)
