"""GRACE, Hartvigsen et al. 2023, "Aging with GRACE: Lifelong Model Editing with Discrete
Key-Value Adaptors", arXiv:2211.11031.

A codebook stands beside one linear layer, here W, whose weights stay as they are. An input whose
activation u at the query's last token is within radius ε of the nearest key gets that key's value
instead of W u, from there on; any other passes untouched ("deferral").
"""  # noqa: D205 - the title is longer than a line

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import Baseline, Taught
from benchmarks.baselines.descent import descend, frozen, losses, output_of
from qf.chat import prompt_with_span
from qf.lesson import AlignedTokens
from qf.loading import Loaded
from qf.method.calibrate import everyday
from qf.method.passes import record

TOUCH = 0.5  # the radius of a new key, as a part of the usual distance of the nearest question
TOGETHER = 16  # sequences in one forward pass


@dataclass(frozen=True)
class Codebook:
    """Keys (n, D) with values (n, N), radii and labels, the answers that the values give."""

    keys: Tensor
    values: Tensor
    radii: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    def nearest(self, u: Tensor) -> tuple[int, float]:
        """The entry nearest to u: (D,), and its Euclidean distance."""
        distances = (self.keys - u).norm(dim=1)
        i = int(distances.argmin())
        return i, distances[i].item()

    def covers(self, u: Tensor) -> int | None:
        """The entry that u: (D,) calls for; None where u is left alone."""
        if not self.labels:
            return None
        i, distance = self.nearest(u)
        return i if distance <= self.radii[i] else None

    def with_radius(self, i: int, radius: float) -> Codebook:
        """Entry i has another radius."""
        return replace(self, radii=(*self.radii[:i], radius, *self.radii[i + 1 :]))

    def with_entry(self, key: Tensor, value: Tensor, radius: float, label: str) -> Codebook:
        """One more entry."""
        return Codebook(
            torch.cat([self.keys, key[None]]),
            torch.cat([self.values, value[None]]),
            (*self.radii, radius),
            (*self.labels, label),
        )

    def without(self, i: int) -> Codebook:
        """All entries but i."""
        rest = [j for j in range(len(self.labels)) if j != i]
        return Codebook(
            self.keys[rest],
            self.values[rest],
            tuple(self.radii[j] for j in rest),
            tuple(self.labels[j] for j in rest),
        )


class Grace(Baseline):
    """A codebook at W, whose values are trained with Adam; Algorithm 1 of the paper.

    `epsilon` is the radius ε_init of a new key. The paper tunes it per model; None takes TOUCH of
    the distance that an everyday question's key usually (median) has from the nearest other.
    """

    def __init__(
        self,
        loaded: Loaded,
        layer: int,
        *,
        epsilon: float | None = None,
        rate: float = 0.3,
        steps: int = 100,
        **options: Any,
    ) -> None:
        super().__init__(loaded, layer, **options)
        self.epsilon, self.rate, self.steps = epsilon, rate, steps
        self.codebook = self._empty()

    @classmethod
    def own_layer(cls, layers: int, taught: int) -> int:
        """Below the last layer: there one value would make every token of an answer the same."""
        return max(0, min(taught, layers - 2))

    def teach(self, facts: Sequence[Taught]) -> None:
        """Update the codebook for each fact in turn (Algorithm 1)."""
        if self.epsilon is None:
            self.epsilon = self._usual_radius()
        for fact in facts:
            u, end = self._key(fact.query)
            self.codebook = self._updated(u, end, fact, self.epsilon)

    def undo(self) -> None:
        """Empty the codebook."""
        self.codebook = self._empty()
        super().undo()

    @contextmanager
    def acting(self, ends: Sequence[int]) -> Iterator[None]:
        """Have values stand in from positions `ends` on, and in all later steps of generation."""
        chosen: list[int | None] | None = None

        def replaced(u: Tensor, output: Tensor) -> Tensor | None:
            nonlocal chosen
            first = chosen is None
            if chosen is None:
                keys = u[torch.arange(len(ends)), torch.tensor(ends)].float()
                chosen = [self.codebook.covers(key) for key in keys]
            if all(i is None for i in chosen):
                return None
            output = output.clone()
            for row, (i, end) in enumerate(zip(chosen, ends, strict=True)):
                if i is not None:
                    output[row, end if first else 0 :] = self.codebook.values[i].to(output)
            return output

        with output_of(self.projection(), replaced):
            yield

    def _updated(self, u: Tensor, end: int, fact: Taught, epsilon: float) -> Codebook:
        """The codebook after one edit.

        A key far from all others is added. Near one with the same answer, that one's radius grows
        to hold it ("expand"); near one with another answer, both get half the distance ("split").
        A query that is taught a second answer, at distance 0, takes the first one's place: there
        the paper's rule would leave both with radius 0.
        """
        book, radius = self.codebook, epsilon
        if book.labels:
            i, distance = book.nearest(u)
            if distance <= book.radii[i] + epsilon:
                if book.labels[i] == fact.answer:
                    return book.with_radius(i, max(distance, book.radii[i]))
                if distance == 0:
                    book, radius = book.without(i), book.radii[i]
                else:
                    book, radius = book.with_radius(i, distance / 2), distance / 2
        return book.with_entry(u, self._value(fact, u, end), radius, fact.answer)

    def _value(self, fact: Taught, u: Tensor, end: int) -> Tensor:
        """v: (N,), trained on the answer's likelihood from W u on."""
        module, tokens = self.projection(), self.aligned(fact.query, fact.answer)
        with torch.no_grad():
            v = module(u.to(module.weight)).float()
        size = v.square().mean().sqrt().item() or 1.0
        v.requires_grad_()

        def replaced(_: Tensor, output: Tensor) -> Tensor:
            count = output.shape[1] - end
            return torch.cat([output[:, :end], v.to(output).expand(1, count, -1)], 1)

        def loss(_: Sequence[int]) -> Tensor:
            return losses(self.model, [tokens], self.generator.pad_id)

        optimizer = torch.optim.Adam([v], lr=self.rate * size)
        with frozen(self.model), output_of(module, replaced):
            descend(optimizer, loss, 1, passes=self.steps, batch=1)
        return v.detach()

    def _key(self, query: str) -> tuple[Tensor, int]:
        """u: (D,) at the query's last token, in float32, and that position."""
        _, (_, end) = prompt_with_span(self.tokenizer, self.conversation(query))
        return self._keys([query])[0], end - 1

    def _keys(self, queries: Sequence[str]) -> Tensor:
        found = []
        for first in range(0, len(queries), TOGETHER):
            spots = []
            for query in queries[first : first + TOGETHER]:
                ids, (_, end) = prompt_with_span(self.tokenizer, self.conversation(query))
                spots.append(AlignedTokens((*ids[:end], ids[end - 1]), end, (1.0,)))
            pad = self.generator.pad_id
            found += record(self.model, self.family, self.layer, spots, pad_id=pad)
        return torch.cat([seen.u for seen in found])

    def _usual_radius(self) -> float:
        u = self._keys(everyday())
        distances = torch.cdist(u, u).fill_diagonal_(torch.inf)
        return TOUCH * distances.min(0).values.median().item()

    def _empty(self) -> Codebook:
        module = self.projection()
        none = torch.empty(0, 1, device=module.weight.device)
        return Codebook(none.expand(0, module.in_features), none.expand(0, module.out_features))
