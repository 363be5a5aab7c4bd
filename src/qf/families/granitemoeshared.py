"""Granite 3 with experts and a shared one: what they give is times `residual_multiplier`."""

from typing import Any

from torch import Tensor, nn

from qf.families.bases.shared import Shared


class GraniteShared(Shared):
    """Logits are divided, as those of Granite."""

    def factor(self, layer: nn.Module) -> float:
        """Return the multiplier."""
        c: Any = layer.residual_multiplier
        return float(c)

    def logits(self, model: Any, states: Tensor) -> Tensor:
        """Return the head's output over `logits_scaling`."""
        return super().logits(model, states) / model.config.logits_scaling


FAMILY = GraniteShared(
    "granitemoeshared",
    ("ibm-research/moe-7b-1b-active-shared-experts",),
    W="shared_mlp.output_linear",
    experts="block_sparse_moe",
    size="shared_intermediate_size",
    by_parameter=False,
)
