"""Command R: attention and MLP side by side, and logits that are scaled."""

from typing import Any

from torch import Tensor

from qf.families.bases.parallel import Parallel


class Cohere(Parallel):
    """The scale is the configuration's."""

    def logits(self, model: Any, states: Tensor) -> Tensor:
        """Return the head's output times `logit_scale`."""
        return super().logits(model, states) * model.config.logit_scale


FAMILY = Cohere("cohere", ("CohereLabs/c4ai-command-r-v01",))
