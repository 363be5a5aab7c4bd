"""Which remembered facts a question calls to mind: whitened cosines above a threshold.

The rows of a fact need not be solved into W for all questions: they can act for the questions that
are about it alone. What a question is about is read off the activations of a layer on the way up:

    a  = normalised (mean of u over the question's tokens - center) S^-½      its address, (D,)
    S  the scatter of addresses within one meaning: how they vary with the wording alone

A question opens the gate to a fact where the cosine with the nearest address of the fact's wordings
is above τ. S makes what differs between wordings small and so what differs between subjects large
(as within-class covariance normalisation does for voices: Hatch et al., 2006). Knows only tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from qf.method.calibrate import Traffic, traffic_of

FLOOR = 0.01  # added to S, as a part of its mean diagonal
MISSED = 0.02  # the part of reworded questions that the threshold lets pass by
TOGETHER = 4  # facts that one question calls to mind at most


@dataclass(frozen=True)
class Gate:
    """Addresses of questions in `layer`, and the threshold on their cosine."""

    layer: int
    center: Tensor
    within: Traffic
    threshold: float

    def address(self, pooled: Tensor) -> Tensor:
        """Return the addresses (m, D), unit length, of pooled activations (m, D)."""
        return normalize(self.within.whiten(pooled.float() - self.center.to(pooled.device)), dim=1)


def fit(pooled: Tensor, meanings: Sequence[int], layer: int) -> Gate:
    """The gate that pooled activations (m, D) of questions call for, in two wordings or more each.

    `meanings` says which of them mean the same. τ is set so that of the pairs that do, MISSED fall
    below it.
    """
    meaning = torch.tensor(meanings)
    center = pooled.mean(0)
    classes = int(meaning.max()) + 1
    counts = torch.bincount(meaning, minlength=classes).clamp(min=1)
    sums = torch.zeros(classes, pooled.shape[1]).index_add_(0, meaning, pooled.float())
    scatter = pooled.float() - (sums / counts[:, None])[meaning]
    gate = Gate(layer, center, traffic_of(scatter, floor=FLOOR), 0.0)
    alike = pairs(gate.address(pooled), meaning)
    return Gate(layer, center, gate.within, float(torch.quantile(alike, MISSED)))


def confused(gate: Gate, pooled: Tensor, meaning: Tensor, relation: Tensor) -> float:
    """The part of questions that ask the same about something else, yet pass the threshold."""
    a = gate.address(pooled)
    other = (relation[:, None] == relation) & (meaning[:, None] != meaning)
    return float((a @ a.T > gate.threshold)[other].float().mean())


def pairs(addresses: Tensor, meaning: Tensor) -> Tensor:
    """The cosines of all pairs of addresses (m, D) that mean the same."""
    found = []
    for m in meaning.unique():
        own = addresses[meaning == m]
        cosines = own @ own.T
        found.append(cosines[torch.triu(torch.ones_like(cosines), 1) > 0])
    return torch.cat(found)
