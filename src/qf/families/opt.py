"""OPT: the MLP sees a batch's positions as one list, and the mask does not go by positions."""

from typing import Any

from qf.families.base import Family


class OPT(Family):
    """Of OPT, opt-350m alone norms after the MLP."""

    def unfit(self, config: Any) -> str:
        """Refuse what norms the layer's output: no output of W would pass it unchanged."""
        norms_before = config.do_layer_norm_before
        return "" if norms_before else "its layers norm their whole output (do_layer_norm_before)"


FAMILY = OPT(
    "opt", ("facebook/opt-125m", "facebook/opt-1.3b"), W="fc2", v="final_layer_norm", packed=False
)
