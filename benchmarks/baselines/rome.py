"""ROME, Meng et al. 2022, "Locating and Editing Factual Associations in GPT", arXiv:2202.05262.

Eq. 2: of all W' that store a new pair (k, v), W' k = v, the one that changes least what W answers
to the keys whose second moment is C. Facts are stored one after another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.baselines import Taught
from benchmarks.baselines.targets import Editor


def insert(W: Tensor, k: Tensor, v: Tensor, C: Tensor) -> Tensor:
    """Return W' in float64 with W' k = v, for W: (N, D), k: (D,), v: (N,), C: (D, D).

    W' = W + Λ (C⁻¹ k)ᵀ        Λ = (v - W k) / ((C⁻¹ k)ᵀ k)
    """
    W, k, v, C = W.double(), k.double(), v.double(), C.double()
    direction = torch.cholesky_solve(k[:, None], torch.linalg.cholesky(C))[:, 0]
    Λ = (v - W @ k) / (direction @ k)
    return W + torch.outer(Λ, direction)


class Rome(Editor):
    """One rank-one change of W for each fact."""

    def teach(self, facts: Sequence[Taught]) -> None:
        """Find each fact's key and value on the weights as they then are, and store them."""
        self.prepare([self.layer])
        module = self.projection()
        for fact in facts:
            situations = self.situations(fact)
            keys = self.keys(situations, self.layer).cpu()
            deltas = self.deltas(fact, situations, self.layer).cpu()
            W = module.weight.detach().cpu().double()
            values = keys @ W.T + deltas
            for k, v in zip(keys, values, strict=True):
                W = insert(W, k, v, self.moment(self.layer))
            self.change(module, W)
