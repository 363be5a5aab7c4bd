"""Layers whose attention and MLP stand side by side: v is the layer's input plus the attention.

The same sum is v where they stand in turn, so that a model type may have both forms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qf.families.base import Family


@dataclass(frozen=True)
class Parallel(Family):
    """y = W u + v with v = x + attention(norm(x)); the attention runs before the MLP.

    `v` names the norm whose input is x, `attention` the module whose output is added to it.
    """

    v: str = "input_layernorm"
    attention: str = "self_attn"

    def on_residual(
        self, layer: nn.Module, keep: Callable[[Tensor], None]
    ) -> list[RemovableHandle]:
        """Sum v in float32 when the attention is done."""
        seen: dict[str, Tensor] = {}

        def at_norm(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen["x"] = inputs[0]

        def at_attention(_m: nn.Module, _i: Any, outputs: tuple[Tensor, ...]) -> None:
            keep(seen.pop("x").float() + outputs[0].float())

        return [
            layer.get_submodule(self.v).register_forward_pre_hook(at_norm),
            layer.get_submodule(self.attention).register_forward_hook(at_attention),
        ]
