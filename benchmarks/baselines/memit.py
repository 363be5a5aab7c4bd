"""MEMIT, Meng et al. 2023, "Mass-Editing Memory in a Transformer", arXiv:2210.07229.

z_i  what the output of the last layer L should be for fact i: h_i + δ_i
r_i  the part that layer l adds: (z_i - h_i) / (L - l + 1), h_i after the layers below it
Δ    R Kᵀ (C₀ + K Kᵀ)⁻¹ for the keys K and parts R of all facts; C₀ = λ E[k kᵀ]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import Taught
from benchmarks.baselines.targets import Editor
from qf.loading import Loaded


def solve(K: Tensor, R: Tensor, C0: Tensor) -> Tensor:
    """Return Δ: (N, D) in float64, for keys K: (n, D), parts R: (n, N) and C0: (D, D).

    Facts are rows here, columns in the paper: Δ = Rᵀ K (C₀ + Kᵀ K)⁻¹.
    """
    K, R, C0 = K.double(), R.double(), C0.double()
    return torch.cholesky_solve(K.T @ R, torch.linalg.cholesky(C0 + K.T @ K)).T


class Memit(Editor):
    """All facts of a `teach` at once, in `span` layers of which `layer` is the last.

    λ is `strength` times D: a key of ordinary text has k C⁻¹ kᵀ of about D, so that λ compares
    with the same in models of any width. (The paper's 15,000 for GPT-J is 0.9 of its D.)
    """

    def __init__(
        self, loaded: Loaded, layer: int, *, span: int = 5, strength: float = 0.1, **options: Any
    ) -> None:
        super().__init__(loaded, layer, **options)
        self.layers = range(max(0, layer - span + 1), layer + 1)
        self.strength = strength

    def teach(self, facts: Sequence[Taught]) -> None:
        """Find all targets at the last layer, then go up through the layers."""
        self.prepare(self.layers)
        situations = [self.situations(fact) for fact in facts]
        targets = torch.cat(
            [
                self.outputs(s[0], self.layer) + self.deltas(fact, s, self.layer)
                for fact, s in zip(facts, situations, strict=True)
            ]
        )
        for layer in self.layers:
            module = self.projection(layer)
            K = torch.cat([self.keys(s, layer) for s in situations]).cpu()
            now = torch.cat([self.outputs(s[0], self.layer) for s in situations])
            R = ((targets - now) / (self.layer - layer + 1)).cpu()
            C0 = self.strength * module.in_features * self.moment(layer)
            W = module.weight.detach().cpu().double()
            self.change(module, W + solve(K, R, C0))
