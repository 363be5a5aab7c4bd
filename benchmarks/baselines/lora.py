"""LoRA (Hu et al. 2021, arXiv:2106.09685) of W through PEFT: W + (alpha / r) B A, W itself fixed.

The adapter is never merged, so that taking it off leaves W as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from benchmarks.baselines import BATCH, Baseline, Taught
from benchmarks.baselines.descent import descend, losses
from qf.loading import Loaded


class Lora(Baseline):
    """An adapter of `rank`, trained with AdamW; a second `teach` goes on with the first one's."""

    def __init__(
        self,
        loaded: Loaded,
        layer: int,
        *,
        rank: int = 8,
        alpha: int = 16,
        rate: float = 5e-3,
        passes: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(loaded, layer, **options)
        self.rank, self.alpha, self.rate, self.passes = rank, alpha, rate, passes
        self._adapted: Any = None
        self._flags: list[tuple[Tensor, bool]] = []

    def teach(self, facts: Sequence[Taught]) -> None:
        """Train until the loss is below STOP or `passes` passes over the facts are over."""
        if self._adapted is None:
            self._adapt()
        sequences = [self.aligned(f.query, f.answer) for f in facts]

        def loss(items: Sequence[int]) -> Tensor:
            chosen = [sequences[i] for i in items]
            return losses(self.model, chosen, self.generator.pad_id)

        trained = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=self.rate)
        descend(optimizer, loss, len(facts), passes=self.passes, batch=BATCH)

    def undo(self) -> None:
        """Take the adapter off."""
        if self._adapted is not None:
            self._adapted.unload()
            self._adapted = None
            for p, flag in self._flags:
                p.requires_grad_(flag)
        super().undo()

    def _adapt(self) -> None:
        """Put a fresh adapter, A random and B zero, beside W and nothing else."""
        module = self.projection()
        name = next(name for name, m in self.model.named_modules() if m is module)
        self._flags = [(p, p.requires_grad) for p in self.model.parameters()]
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=[name])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self._adapted = get_peft_model(self.model, config)
        self._adapted.eval()
