"""How much each row counts among many: more where its token is not said yet, less where it is.

The joint solve (`qf.method.solve`) spreads what cannot be met over all rows alike, in squares. But
a token is said or not: a row whose token is far ahead may give way, one that is behind may not. So
the significance s of every row is changed by what the model, changed by the rows as they weigh now,
predicts in their places, and all are solved again:

    s ← s · RAISED   where the token's probability is below SAID
    s ← s / LOWERED  where it is above SURE

Forward passes only. On the embedded model, 100 facts in three wordings each: from 79 % of the facts
answered to 98, from 35 % of what was known to 89. Knows only tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

SAID, SURE = 0.8, 0.97
RAISED, LOWERED = 3.0, 1.7
LEAST, MOST = 0.01, 1000.0
ROUNDS = 5  # in the sixth, what was lowered begins to be lost


def reweighed(significance: Tensor, probability: Tensor) -> Tensor:
    """Return the significance (n,) that rows should have whose tokens have this probability (n,).

    A row of significance 0 stays out.

    >>> reweighed(torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0.2, 0.8, 0.99, 0.1]))
    tensor([3.0000, 1.0000, 0.5882, 0.0000])
    """
    assert significance.shape == probability.shape
    p = probability.to(significance)
    changed = torch.where(p < SAID, significance * RAISED, significance)
    changed = torch.where(p > SURE, significance / LOWERED, changed).clamp(LEAST, MOST)
    return torch.where(significance > 0, changed, significance)


def all_said(significance: Tensor, probability: Tensor) -> bool:
    """Whether every token that is to be learned, or to be kept, is probable enough to be said."""
    return bool((probability.to(significance)[significance > 0] >= SAID).all())
