"""Which of a fact's rows an answer position reads: the nearest key, and the one that is next.

Behind a gate (`qf.method.gate`) a fact's rows are not solved into W. They are looked up:

    j = argmax cos(u, k_j) + FOLLOWS [j comes after the row read last]      k_j = u', (D,)
    y = y_j                 the open-book output of row j; where it was left free, y stays as it is

At the position that a row was recorded at, cos is 1 and y = y_j = W u' + v' + r exactly, what
QF-update asks of W'. Elsewhere (the question in other words) the answer is the recorded one all the
same: nothing has to be generalised. An answer is read in order, so that a word that occurs twice in
it leads on. Knows only tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

FOLLOWS = 0.3
"""So much closer counts the row after the one that was read last; half the cosine of two tokens."""


@dataclass(frozen=True)
class Recorded:
    """The rows of one answer, in order: keys u' (n, D), outputs y (n, N), significance (n,)."""

    keys: Tensor
    outputs: Tensor
    significance: Tensor


class Readout:
    """The rows of the facts that act on one answer, on its device, and which was read last."""

    def __init__(self, answers: Sequence[Recorded], device: torch.device | str = "cpu") -> None:
        self.keys = normalize(torch.cat([a.keys for a in answers]).to(device).float(), dim=1)
        self.outputs = torch.cat([a.outputs for a in answers]).to(device)
        weights = torch.cat([a.significance for a in answers]).to(self.outputs)
        self.share = weights.clamp(max=1)[:, None]
        self.last = [i == len(a.keys) - 1 for a in answers for i in range(len(a.keys))]
        self._read: int | None = None

    def output(self, u: Tensor, y: Tensor) -> Tensor:
        """What the layer gives in place of y (N,) where W's input is u (D,)."""
        near = self.keys @ normalize(u.float(), dim=0)
        if self._read is not None and not self.last[self._read]:
            near[self._read + 1] += FOLLOWS
        self._read = int(near.argmax())
        return torch.lerp(y, self.outputs[self._read].to(y), self.share[self._read].to(y))
