"""Layers that norm what the MLP gives before they add it: y = N(W u) + v, N an RMS norm.

Behind a gate, which puts y in place as it is, this changes nothing. In W it does: N(z), which is
g z / rms(z), has one length, so W comes as near to y as N lets it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qf.families.base import Family
from qf.families.placement import device_of


@dataclass(frozen=True)
class Normed(Family):
    """`norm` names N within a layer."""

    norm: str = "post_feedforward_layernorm"
    limits: str = "what W gives is normed before it is added: exact gated, near in the weights"

    def output(self, layer: nn.Module, z: Tensor, v: Tensor) -> Tensor:
        """Return N(z) + v."""
        return self._normed(layer, z) + v

    def missing(self, layer: nn.Module, z: Tensor, v: Tensor, y: Tensor) -> Tensor:
        """Return what turns z, its length kept, to where N(z) + v is nearest to y.

        With t = y - v that is argmin |g x - t| over all x of rms(x) = 1, x = g t / (g² + μ), or
        t / g where even that is too short, and rms(z) x - z.
        """
        t = y - v
        g = self._normed(layer, torch.ones_like(t[:1]))
        tiny = 1e-6 * float(g.abs().amax())  # divisors of 0 would give no direction
        low, high = torch.full_like(t[:, :1], tiny**2), _rms(g * t)  # high: rms(x) is at most 1
        for _ in range(100):
            μ = (low + high) / 2
            long = _rms(g * t / (g * g + μ)) > 1
            low, high = torch.where(long, μ, low), torch.where(long, high, μ)
        x = g * t / (g * g + high)
        return _rms(z) * x / _rms(x) - z

    def _normed(self, layer: nn.Module, z: Tensor) -> Tensor:
        norm = layer.get_submodule(self.norm)
        with torch.no_grad():
            return norm(z.to(device_of(norm), torch.float32)).to(z)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean(1, keepdim=True).sqrt()
