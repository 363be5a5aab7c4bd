"""BLOOM: the residual is added inside the MLP; ALiBi tells distances along the whole row."""

from typing import Any

from qf.families.base import Family


class Bloom(Family):
    """Two settings of old checkpoints change the form."""

    def unfit(self, config: Any) -> str:
        """Refuse a residual that is not the norm's input, and a W that is used in slices."""
        if config.apply_residual_connection_post_layernorm:
            return "its residual is taken after the norm (apply_residual_connection_post_layernorm)"
        sliced = config.pretraining_tp > 1 and config.slow_but_exact
        return "its projections are computed in slices (slow_but_exact)" if sliced else ""


FAMILY = Bloom(
    "bloom",
    ("bigscience/bloomz-560m", "bigscience/bloomz-7b1"),
    stack="h",
    W="mlp.dense_4h_to_h",
    packed=False,
)
