"""Granite 3, dense: y = s W u + v, with s = `residual_multiplier`, and logits that are divided."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qf.families.base import Family


class Granite(Family):
    """Works on y / s = W u + v / s."""

    def on_residual(
        self, layer: nn.Module, keep: Callable[[Tensor], None]
    ) -> list[RemovableHandle]:
        """Give v / s."""
        s = self.scale(layer)
        return super().on_residual(layer, lambda v: keep(v.float() / s))

    def scale(self, layer: nn.Module) -> float:
        """Return s."""
        s: Any = layer.residual_multiplier
        return float(s)

    def logits(self, model: Any, states: Tensor) -> Tensor:
        """Return the head's output over `logits_scaling`."""
        return super().logits(model, states) / model.config.logits_scaling


FAMILY = Granite("granite", ("ibm-granite/granite-3.3-2b-instruct",))
