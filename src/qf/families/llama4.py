"""Llama 4, the text part: the shared expert runs behind the others; some models mix in MLPs."""

from typing import Any

from qf.families.bases.shared import Shared


class Llama4(Shared):
    """Transformers names the whole text model as its decoder."""

    def decoder(self, model: Any) -> Any:
        """Return what lies in front of the head."""
        decoder = super().decoder(model)
        return getattr(decoder, "model", decoder)


FAMILY = Llama4(
    "llama4_text",
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct",),
    W="feed_forward.shared_expert.down_proj",
    experts="feed_forward.experts",
    dense="feed_forward.down_proj",
    size="intermediate_size",
    packed=False,
    by_parameter=False,
)
