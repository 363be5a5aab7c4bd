"""Gated memory at work: each question is answered with the facts that it calls to mind.

While an answer is generated, hooks read each question's address on the way up, choose its facts,
and add to layer i's output what their rows, solved together, add to W:

    y = W u + v + B (A u)      B: (N, n), A: (n, D) of the question's own facts (qf.method.solve)

So W itself stays as it is, facts cannot disturb what is not about them, and thousands fit. Knows a
model through its family; stores nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qf.cues import Cue, cue_of, mentioned, words
from qf.families import Family
from qf.method.gate import TOGETHER, Gate
from qf.method.solve import Update, joint

MENTIONED = 0.6
"""How much of what its wordings have in common a question must hold to be about a fact."""
MARGIN = 0.1
"""Facts whose cosine is this much below the best one's do not act beside it."""
RIDGE = 0.0  # nothing but the fact itself has to agree with its rows


@dataclass(frozen=True)
class Asked:
    """A prompt's tokens, the query in it, and which of the tokens are the query's: [from, to)."""

    ids: tuple[int, ...]
    query: str
    span: tuple[int, int]


@dataclass(frozen=True)
class Known:
    """A fact as the gate needs it: the words of its subject, its addresses (w, D), its rows."""

    cue: Cue
    addresses: Tensor
    keys: Tensor
    deltas: Tensor
    significance: Tensor


class Recall:
    """The facts that act behind a gate. To find one costs nothing that grows with their number.

    A fact is looked at only when the question mentions its subject.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._facts: dict[str, Known] = {}
        self._mentions: dict[str, set[str]] = {}
        self.consolidated: Update | None = None  # what other facts changed in W already

    def __len__(self) -> int:
        return len(self._facts)

    def holds(self, name: str, keys: Tensor) -> bool:
        """Whether the fact of this id acts, with these very keys."""
        return name in self._facts and self._facts[name].keys is keys

    def names(self) -> list[str]:
        """The ids of the facts."""
        return list(self._facts)

    def add(
        self,
        name: str,
        wordings: Sequence[str],
        pooled: Tensor,
        rows: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        """Let a fact act: the wordings of its query, their pooled activations (w, D), its rows."""
        assert name not in self._facts and len(wordings) == len(pooled)
        known = Known(cue_of(wordings), self.gate.address(pooled), *rows)
        self._facts[name] = known
        for word in known.cue:
            self._mentions.setdefault(word, set()).add(name)

    def remove(self, name: str) -> None:
        """Let a fact act no more."""
        for word in self._facts.pop(name).cue:
            self._mentions[word].discard(name)

    def candidates(self, query: str) -> list[str]:
        """The facts whose subject a query mentions."""
        said = set(words(query))
        held = {name for word in said for name in self._mentions.get(word, ())}
        return sorted(n for n in held if mentioned(self._facts[n].cue, said) >= MENTIONED)

    def chosen(self, query: str, pooled: Tensor) -> list[str]:
        """The ids of the facts that a query calls to mind, by its pooled activations (D,)."""
        names = self.candidates(query)
        if not names:
            return []
        address = self.gate.address(pooled[None].cpu())[0]
        cosines = {n: float((self._facts[n].addresses @ address).max()) for n in names}
        least = max(self.gate.threshold, max(cosines.values()) - MARGIN)
        passing = [n for n in names if cosines[n] >= least]
        return sorted(passing, key=lambda n: -cosines[n])[:TOGETHER]

    def update(self, names: Sequence[str]) -> Update:
        """What the rows of these facts, solved together, add to W as it is."""
        parts = [self._facts[name] for name in sorted(names)]
        keys, deltas = torch.cat([p.keys for p in parts]), torch.cat([p.deltas for p in parts])
        if (done := self.consolidated) is not None:
            deltas = deltas - keys.to(done.A) @ done.A.T @ done.B.T
        return joint(
            keys,
            deltas,
            significance=torch.cat([p.significance for p in parts]),
            ridge=RIDGE,
        )

    @contextmanager
    def acting(
        self, model: Any, family: Family, layer: int, asked: Sequence[Asked], longest: int
    ) -> Iterator[None]:
        """Let the facts act on the batch of prompts, padded on the left to `longest`, inside."""
        acting: list[tuple[Tensor, Tensor]] = []  # A: (batch, n, D) and B: (batch, N, n), if any
        seen = False

        def on_the_way_up(_: Any, inputs: tuple[Tensor, ...]) -> None:
            nonlocal seen
            if seen:
                return
            seen, u = True, inputs[0]
            changes: list[Update | None] = []
            for row, a in enumerate(asked):
                shift = longest - len(a.ids)
                mean = u[row, shift + a.span[0] : shift + a.span[1]].float().mean(0)
                names = self.chosen(a.query, mean)
                changes.append(self.update(names) if names else None)
            if any(changes):
                acting.append(_stacked(changes, u.device))

        def at_the_layer(_: Any, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
            if not acting:
                return None
            A, B = acting[0]
            return y + (inputs[0].float() @ A.mT @ B.mT).to(y.dtype)

        below = family.projection(family.layer(model, self.gate.layer))
        taught = family.projection(family.layer(model, layer))
        hooks = [
            below.register_forward_pre_hook(on_the_way_up),
            taught.register_forward_hook(at_the_layer),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _stacked(changes: Sequence[Update | None], device: torch.device) -> tuple[Tensor, Tensor]:
    """The factors of all changes, with zeros where there is none or one has fewer rows."""
    some = [c for c in changes if c is not None]
    rank = max(c.rank for c in some)
    A = torch.zeros(len(changes), rank, some[0].A.shape[1])
    B = torch.zeros(len(changes), some[0].B.shape[0], rank)
    for row, change in enumerate(changes):
        if change is not None:
            A[row, : change.rank] = change.A
            B[row, :, : change.rank] = change.B
    return A.to(device), B.to(device)
