"""Gemma 2: a norm after the MLP, and logits that are bent towards a bound."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qf.families.bases.normed import Normed


@dataclass(frozen=True)
class Gemma2(Normed):
    """v is the input of the norm in front of the MLP."""

    v: str = "pre_feedforward_layernorm"

    def logits(self, model: Any, states: Tensor) -> Tensor:
        """Return bound · tanh(logits / bound), where there is a bound."""
        z = super().logits(model, states)
        bound = model.config.get_text_config().final_logit_softcapping
        return z if bound is None else (z / bound).tanh() * bound


FAMILY = Gemma2("gemma2", ("google/gemma-2-2b-it",))
