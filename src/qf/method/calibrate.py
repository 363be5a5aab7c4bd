"""What ordinary traffic looks like in layer i: the second moment C of its keys, by forward passes.

A change of W that is small in the norm of C disturbs little of what the model does already. C is
kept as its largest directions over a floor, so that it is small beside the model and quick to
apply. Knows a model through its family; no files, and no facts.

    u  (m, D)  keys of ordinary traffic at answer positions
    C  (D, D)  = uᵀu / m + floor, here V diag(moments) Vᵀ + floor · 1
    V  (D, k)  the directions
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from qf.families import Family
from qf.lesson import AlignedTokens
from qf.method.passes import record

RANK = 1200  # directions that are kept: 11 MB for the 8,960 dimensions of Qwen2.5-1.5B
FINE = 64  # of these, the largest, are kept in half precision, the others in 8 bits
POSITIONS = 32768  # that are looked at
# Times the mean diagonal of C, for one fact; it is lowered for many (qf.solving). The lower, the
# less strangers are disturbed, and the less a fact reaches other wordings: on the embedded model
# 0.1 keeps 100 % of the strangers and answers 71 % of the other wordings, 8 keeps 98, answers 90.
FLOOR = 8.0
BLOCK = 512  # rows, or directions, that are held in float64 at a time
TOGETHER = 16  # sequences in one pass


@dataclass(frozen=True)
class Traffic:
    """C = V diag(moments) Vᵀ + floor · 1 with V = `directions` (D, k), orthonormal; float32.

    The directions, the smallest first, are rounded as they are kept.
    """

    directions: Tensor
    moments: Tensor
    floor: float

    def over(self, floor: float) -> Traffic:
        """The same directions over another floor."""
        return replace(self, floor=floor)

    def whiten(self, x: Tensor) -> Tensor:
        """Return x C^-½ for x: (n, D), in the type of x."""
        shrink = 1 - (self.floor / (self.moments.to(x) + self.floor)).sqrt()
        whitened = x.clone()
        for V, part in zip(self.directions.split(BLOCK, 1), shrink.split(BLOCK), strict=True):
            V = V.to(x)  # not all at once: in float64 they take twice the memory
            whitened -= (x @ V * part) @ V.T
        return whitened / self.floor**0.5


def traffic_of(u: Tensor, floor: float | None = None) -> Traffic:
    """The second moment of the keys u: (m, D), and `floor` (FLOOR) times its mean diagonal.

    >>> traffic_of(torch.randn(100, 8)).directions.shape
    torch.Size([8, 8])
    """
    m, D = u.shape
    x = u.T if m < D else u  # uuᵀ has the eigenvalues of uᵀu and is smaller
    gram = sum(part.double().T @ part.double() for part in x.split(BLOCK))
    moments, vectors = torch.linalg.eigh(gram / m)
    k = min(RANK, m, D)
    top, V = moments[-k:], vectors[:, -k:].float()
    real = top > 1e-7 * top[-1]  # below, they are rounding
    V, top = V[:, real], top[real]
    if m < D:
        V = x.float() @ V / (m * top).sqrt().float()
    spread = float(moments.sum())
    least = (
        max(0.0, spread - float(top.sum())) / D + (FLOOR if floor is None else floor) * spread / D
    )
    return Traffic(unpacked(*packed(V)), top.float().contiguous(), least or 1.0)


def packed(V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Directions (D, k), the smallest first, in few bytes: what was unpacked packs the same.

    The last FINE of them are in half precision, the others in 8 bits, each in steps of its own.

    >>> [x.dtype for x in packed(torch.eye(100))]
    [torch.int8, torch.bfloat16, torch.float16]
    """
    kept = min(FINE, V.shape[1])
    coarse, fine = V.split([V.shape[1] - kept, kept], 1)
    steps = (coarse.abs().amax(0) / 127).bfloat16()  # 127 of them are exact in float32
    return (coarse / steps.float()).round().to(torch.int8), steps, fine.half().contiguous()


def unpacked(coarse: Tensor, steps: Tensor, fine: Tensor) -> Tensor:
    """The directions (D, k) that were `packed`, in float32."""
    return torch.cat([coarse.float() * steps.float(), fine.float()], 1)


def keys_of(
    model: Any, family: Family, layer: int, answered: Sequence[AlignedTokens], *, pad_id: int
) -> Tensor:
    """Keys (m, D) in `layer` at the answer positions of whole conversations, evenly thinned out.

    Raises ModelError as `record` does.
    """
    found = []
    for first in range(0, len(answered), TOGETHER):
        batch = answered[first : first + TOGETHER]
        found += [r.u.cpu() for r in record(model, family, layer, batch, pad_id=pad_id)]
    u = torch.cat(found)
    return u[:: -(-len(u) // POSITIONS)]


def everyday(count: int | None = None) -> list[str]:
    """Everyday questions, `count` of them spread over all (None: every one)."""
    text = files("qf.method").joinpath("everyday.txt").read_text(encoding="utf-8")
    questions = text.splitlines()
    count = len(questions) if count is None else min(count, len(questions))
    return [questions[i * len(questions) // count] for i in range(count)]
