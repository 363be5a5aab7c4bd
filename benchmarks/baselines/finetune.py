"""Fine-tuning of W alone with AdamW: closed-book query -> answer, loss on the answer's tokens.

W is trained in float32 whatever the model's precision: in bfloat16 small steps would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from benchmarks.baselines import BATCH, Baseline, Taught
from benchmarks.baselines.descent import descend, frozen, losses, output_of
from qf.loading import Loaded


class FineTune(Baseline):
    """AdamW on W, with all facts of a `teach` together or one after another."""

    def __init__(
        self,
        loaded: Loaded,
        layer: int,
        *,
        together: bool = True,
        rate: float = 1e-3,
        passes: int = 60,
        **options: Any,
    ) -> None:
        super().__init__(loaded, layer, **options)
        self.together, self.rate, self.passes = together, rate, passes

    def teach(self, facts: Sequence[Taught]) -> None:
        """Train until the loss is below STOP or `passes` passes over the facts are over."""
        for part in [facts] if self.together else [[fact] for fact in facts]:
            self._train(part)

    def _train(self, facts: Sequence[Taught]) -> None:
        sequences = [self.aligned(f.query, f.answer) for f in facts]
        module = self.projection()
        W = module.weight.detach().float().clone().requires_grad_()
        bias = None if module.bias is None else module.bias.detach().float()

        def with_own(u: Tensor, output: Tensor) -> Tensor:
            return F.linear(u.float(), W, bias).to(output)

        def loss(items: Sequence[int]) -> Tensor:
            chosen = [sequences[i] for i in items]
            return losses(self.model, chosen, self.generator.pad_id)

        optimizer = torch.optim.AdamW([W], lr=self.rate)
        with frozen(self.model), output_of(module, with_own):
            descend(optimizer, loss, len(facts), passes=self.passes, batch=BATCH)
        self.change(module, W.detach())
