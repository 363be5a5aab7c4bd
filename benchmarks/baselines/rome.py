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


def insert(W: Tensor, K: Tensor, V: Tensor, C: Tensor) -> Tensor:
    """Return W' in float64 with W' k = v for each row of K: (P, D) and V: (P, N); C: (D, D).

    W' = W + Λ (C⁻¹ k)ᵀ        Λ = (v - W k) / ((C⁻¹ k)ᵀ k)

    for one key, as in the paper; for several of one fact, the same minimum under all of their
    constraints (Gupta et al. 2024, arXiv:2403.14236, Eq. 12), with K's rows for k.
    """
    W, K, V, C = W.double(), K.double(), V.double(), C.double()
    directions = torch.cholesky_solve(K.T, torch.linalg.cholesky(C))  # (D, P)
    Λ = (V - K @ W.T).T @ torch.linalg.pinv(K @ directions, hermitian=True)
    return W + Λ @ directions.T


class Rome(Editor):
    """One change of W for each fact, of as many ranks as it has keys."""

    def teach(self, facts: Sequence[Taught]) -> None:
        """Find each fact's key and value on the weights as they then are, and store them."""
        self.prepare([self.layer])
        module = self.projection()
        for fact in facts:
            situations = self.situations(fact)
            keys = self.keys(situations, self.layer).cpu()
            deltas = self.deltas(fact, situations, self.layer).cpu()
            W = module.weight.detach().cpu().double()
            self.change(module, insert(W, keys, keys @ W.T + deltas, self.moment(self.layer)))
