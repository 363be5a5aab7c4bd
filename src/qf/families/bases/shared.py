"""Layers with experts for some tokens, and one that every token goes through: W is that one's.

    y = s W u + v    with v = x + c (what the other experts give), x the residual

c is 1, or a number by which a model multiplies what it adds to x. s is c, or c times what a gate of
the shared expert gives the token. It differs between two passes, so that here y is not divided by
it: v has s as one more column, (T, N + 1). In a layer without experts W is that of the MLP.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qf.families.base import Family
from qf.families.refused import UNSHARED


@dataclass(frozen=True)
class Shared(Family):
    """`experts` names the module of the others, `gate` the linear one of the shared one's gate.

    `dense` is where W is in a layer without experts, `size` the setting that is 0 in a model whose
    experts have no shared one. PEFT takes every `down_proj` of most of these types for that of the
    other experts, which are one parameter, and says no more than that keys are missing.
    """

    W: str = "mlp.shared_experts.down_proj"
    experts: str = "mlp.experts"
    gate: str = ""
    dense: str = "mlp.down_proj"
    size: str = "n_shared_experts"
    by_parameter: bool = True

    def unfit(self, config: Any) -> str:
        """Refuse a model in which no expert is shared."""
        return "" if getattr(config, self.size) else f"{UNSHARED} ({self.size} is 0)"

    def projection(self, layer: nn.Module) -> nn.Module:
        """Return the shared expert's, or that of the MLP."""
        place = self.W if self._routed(layer) else self.dense
        return super(Shared, replace(self, W=place)).projection(layer)

    def on_residual(
        self, layer: nn.Module, keep: Callable[[Tensor], None]
    ) -> list[RemovableHandle]:
        """Put v and s together once all that they are made of was seen, in whatever order."""
        places = [p for p in (self.experts, self.gate) if p and self._routed(layer)]
        parts: dict[str, Tensor] = {}

        def add(place: str, part: Tensor) -> None:
            parts[place] = part.float()
            if len(parts) > len(places):
                keep(self._v(layer, parts))

        def at_norm(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            parts.clear()
            add(self.v, inputs[0])

        def at_place(place: str, _m: nn.Module, _i: Any, output: Tensor) -> None:
            add(place, output)

        hooks = [layer.get_submodule(self.v).register_forward_pre_hook(at_norm)]
        for place in places:
            module = layer.get_submodule(place)
            hooks.append(module.register_forward_hook(partial(at_place, place)))
        return hooks

    def output(self, layer: nn.Module, z: Tensor, v: Tensor) -> Tensor:
        """Return s z + v."""
        return v[:, -1:] * z + v[:, :-1]

    def missing(self, layer: nn.Module, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        """Return (y - v) / s - z."""
        return (y - self.output(layer, z, v)) / v[:, -1:]

    def factor(self, layer: nn.Module) -> float:
        """Return c, which the layer multiplies by what all its experts give."""
        return 1.0

    def _routed(self, layer: nn.Module) -> bool:
        """Whether a layer has experts."""
        return any(name == self.experts for name, _ in layer.named_modules())

    def _v(self, layer: nn.Module, parts: dict[str, Tensor]) -> Tensor:
        """Return (1, L, N + 1)."""
        x = v = parts[self.v]
        s = torch.full_like(x[..., :1], self.factor(layer))
        if self.experts in parts:  # a row per token, or one for each expert and token
            v = x + s * parts[self.experts].reshape(-1, *x.shape).sum(0)
        if self.gate in parts:
            s = s * parts[self.gate].reshape(s.shape).sigmoid()
        return torch.cat([v, s], -1)
