"""Which remembered facts a question calls to mind: cosines of what it asks for, above a threshold.

The rows of a fact need not be solved into W for all questions: they can be read out for the
questions that are about it alone. What a question asks for is read off the activations of a layer
on the way up:

    a = normalised (mean of u over the question's tokens - center) P        its address, (k,)
    P   the k directions in which relations differ most, by how much wordings and names differ:
        the largest eigenvectors of S_w⁻¹ S_b (linear discriminants: Fisher 1936, Rao 1948)

    S_w  scatter of questions about one relation, in all wordings and about all names
    S_b  scatter of the relations' means

A question opens the gate to a fact where the cosine with the nearest address of the fact's wordings
is above τ. Names hardly count in it: whom a question is about, its words tell (`qf.cues`). Knows
only tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

DIRECTIONS = 48  # k
PRINCIPAL = 768  # principal directions among which those k are looked for
FLOOR = 0.1  # added to S_w, as a part of its mean diagonal
MISSED = 0.15  # the part of pairs of wordings that the threshold lets pass by
TOGETHER = 4  # facts that one question calls to mind at most


@dataclass(frozen=True)
class Gate:
    """Addresses of questions in `layer`, by `center` (D,) and `directions` (D, k); and τ."""

    layer: int
    center: Tensor
    directions: Tensor
    threshold: float

    def address(self, pooled: Tensor) -> Tensor:
        """Return the addresses (m, k), unit length, of pooled activations (m, D)."""
        center, directions = self.center.to(pooled.device), self.directions.to(pooled.device)
        return normalize((pooled.float() - center) @ directions, dim=1)


def fit(pooled: Tensor, meanings: Sequence[int], relations: Sequence[int], layer: int) -> Gate:
    """The gate that pooled activations (m, D) of questions call for.

    `relations` tells which of them ask for the same, `meanings` which of those about the same name
    too. τ is set so that of the pairs of one meaning MISSED fall below it, among relations that
    play no part in finding the directions; for the gate itself all of them do.
    """
    meaning, relation = torch.tensor(meanings), torch.tensor(relations)
    held_out = relation % 2 == 1
    assert held_out.any() and not held_out.all(), "two relations are asked for at least"
    half = _fitted(pooled[~held_out], relation[~held_out], layer)
    alike = pairs(half.address(pooled[held_out]), meaning[held_out])
    threshold = float(torch.quantile(alike, MISSED))
    return replace(_fitted(pooled, relation, layer), threshold=threshold)


def _fitted(pooled: Tensor, relation: Tensor, layer: int) -> Gate:
    """The gate without its threshold."""
    center = pooled.float().mean(0)
    x = pooled.double() - center
    V = _principal(x)
    return Gate(layer, center, (V @ discriminants(x @ V, relation)).float(), 0.0)


def _principal(x: Tensor) -> Tensor:
    """Return the (D, r) directions of largest scatter of x: (m, D), at most PRINCIPAL of them."""
    if len(x) >= x.shape[1]:
        return torch.linalg.eigh(x.T @ x)[1][:, -PRINCIPAL:]
    return torch.linalg.svd(x, full_matrices=False)[2][:PRINCIPAL].T


def discriminants(x: Tensor, classes: Tensor) -> Tensor:
    """Return the (r, k) directions that tell classes apart in x: (m, r), the best k of them."""
    _, label = classes.unique(return_inverse=True)
    counts = label.bincount().to(x)[:, None]
    means = torch.zeros(len(counts), x.shape[1]).to(x).index_add_(0, label, x) / counts
    within, between = x - means[label], means * counts.sqrt()
    S = within.T @ within
    S.diagonal().add_(FLOOR * S.diagonal().mean() + torch.finfo(x.dtype).tiny)
    L = torch.linalg.cholesky(S)
    B = torch.linalg.solve_triangular(L, between.T, upper=False)  # (r, classes)
    U, _, _ = torch.linalg.svd(B, full_matrices=False)
    return torch.linalg.solve_triangular(L.T, U[:, :DIRECTIONS], upper=True)


def confused(gate: Gate, pooled: Tensor, relation: Tensor) -> float:
    """The part of pairs of questions for different relations that pass the threshold."""
    a = gate.address(pooled)
    return float((a @ a.T > gate.threshold)[relation[:, None] != relation].float().mean())


def pairs(addresses: Tensor, meaning: Tensor) -> Tensor:
    """The cosines of all pairs of addresses (m, k) that mean the same."""
    found = []
    for m in meaning.unique():
        own = addresses[meaning == m]
        cosines = own @ own.T
        found.append(cosines[torch.triu(torch.ones_like(cosines), 1) > 0])
    return torch.cat(found)
