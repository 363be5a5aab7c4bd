"""Falcon: attention and MLP side by side, with a norm for each or one for both, or in turn."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qf.families.bases.parallel import Parallel


class Falcon(Parallel):
    """Each layer says by its norms what it is."""

    def on_residual(
        self, layer: nn.Module, keep: Callable[[Tensor], None]
    ) -> list[RemovableHandle]:
        """Take x where it enters the attention's norm."""
        norm = "ln_attn" if hasattr(layer, "ln_attn") else "input_layernorm"
        return super(Falcon, replace(self, v=norm)).on_residual(layer, keep)


FAMILY = Falcon(
    "falcon",
    ("tiiuae/falcon-7b-instruct", "tiiuae/falcon-40b-instruct"),
    stack="h",
    W="mlp.dense_4h_to_h",
    attention="self_attention",
    packed=False,
)
