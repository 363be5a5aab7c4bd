"""Which layer to teach: teach a few lessons at every layer and see what comes out on top.

Forward passes only, nothing is generated: a layer is judged by whether the closed-book pass
predicts every token of the answer, which is when greedy decoding gives that answer. Restores W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from qf.chat import messages
from qf.families import Family
from qf.lesson import AlignedTokens, Lesson, align, pair
from qf.method.forms import acting, form_of
from qf.method.forms import size as size_of
from qf.method.passes import record, rows
from qf.method.solve import joint

PAPER_DEPTH = 23 / 28
"""The paper teaches layer 23 of the 28 of Qwen2.5-1.5B-Instruct."""


@dataclass(frozen=True)
class Probe:
    """A lesson, other wordings of its query, to be taught alone."""

    lesson: Lesson
    rewordings: tuple[str, ...]


@dataclass(frozen=True)
class LayerScore:
    """What teaching at one layer gives, as means over the probes; shares are from 0 to 1.

    `same` and `other`: answers given in full to the taught and to other wordings. `probability`:
    that of the answer tokens over both. `kept`: known answers still right, of those right before.
    `change`: ‖ΔW‖ / ‖W‖ (Frobenius), None where W is quantised.
    """

    layer: int
    same: float
    other: float
    kept: float
    probability: float
    change: float | None

    @property
    def score(self) -> float:
        """Harmonic mean of same, other and kept; 0 if one of them is 0."""
        parts = (self.same, self.other, self.kept)
        return 3 / sum(1 / p for p in parts) if all(parts) else 0.0


def default_layer(layers: int) -> int:
    """The layer at the depth of the paper's, for a model that has not been measured.

    >>> default_layer(28), default_layer(6)
    (23, 5)
    """
    return min(layers - 1, round(layers * PAPER_DEPTH))


def best(scores: Sequence[LayerScore]) -> LayerScore:
    """The layer with the highest score; among equals the one surest of the answers."""
    return max(scores, key=lambda s: (round(s.score, 6), s.probability))


def sweep(
    model: Any,
    family: Family,
    tokenizer: Any,
    probes: Sequence[Probe],
    known: Sequence[tuple[str, str]],
    *,
    layers: Sequence[int] | None = None,
    system: str | None = None,
    on_layer: Callable[[LayerScore], None] = lambda _: None,
) -> list[LayerScore]:
    """Teach each probe alone, by Eq. 3, at each of `layers` (None: all); W is left as it was.

    `known` are (question, answer) pairs; those that the model does not answer so are left out.
    """
    scores = []
    for score in sweeping(model, family, tokenizer, probes, known, layers=layers, system=system):
        if score is not None:
            scores.append(score)
            on_layer(score)
    return scores


def sweeping(
    model: Any,
    family: Family,
    tokenizer: Any,
    probes: Sequence[Probe],
    known: Sequence[tuple[str, str]],
    *,
    layers: Sequence[int] | None = None,
    system: str | None = None,
) -> Iterator[LayerScore | None]:
    """`sweep` in pieces that others may come between: W is as it was at the end of each.

    A piece is one probe, or at the beginning what is known; a layer's last one gives its score.
    """
    pad_id = tokenizer.pad_token_id or 0
    lessons = [pair(tokenizer, probe.lesson, system) for probe in probes]
    asked = [
        [
            align(tokenizer, messages(query, system), probe.lesson.answer, None)
            for query in (probe.lesson.query, *probe.rewordings)
        ]
        for probe in probes
    ]
    kept = [align(tokenizer, messages(q, system), a, None) for q, a in known]
    kept = [k for k, ok in zip(kept, _answered(model, family, kept, pad_id), strict=True) if ok[0]]

    for layer in layers if layers is not None else range(len(family.layers(model))):
        projection = family.projection(family.taught(model, layer))
        size = size_of(family, projection)
        trials = []
        for probe, (instruct, update), questions in zip(probes, lessons, asked, strict=True):
            yield None
            found = rows(
                model, family, layer, instruct, update, probe.lesson.significance, pad_id=pad_id
            )
            taught = joint(found.keys, found.deltas, significance=found.significance)
            change = None if size is None else float((taught.B @ taught.A).norm()) / size
            with acting(form_of(family, model, projection), taught):
                answers = _answered(model, family, [*questions, *kept], pad_id)
            trials.append((answers[: len(questions)], answers[len(questions) :], change))
        yield _summed(layer, trials)


Answer = tuple[bool, float]  # answered in full; mean probability of the answer's tokens


def _summed(
    layer: int, trials: Sequence[tuple[list[Answer], list[Answer], float | None]]
) -> LayerScore:
    def share(oks: list[bool]) -> float:
        return fmean(oks) if oks else 1.0

    changes = [change for _, _, change in trials]
    return LayerScore(
        layer,
        same=share([asked[0][0] for asked, _, _ in trials]),
        other=share([ok for asked, _, _ in trials for ok, _ in asked[1:]]),
        kept=share([ok for _, kept, _ in trials for ok, _ in kept]),
        probability=fmean(p for asked, _, _ in trials for _, p in asked),
        change=None if None in changes else fmean(c for c in changes if c is not None),
    )


def _answered(
    model: Any, family: Family, sequences: Sequence[AlignedTokens], pad_id: int
) -> list[Answer]:
    """Whether each sequence's answer is predicted token by token, and how surely."""
    answers: list[Answer] = []
    for first in range(0, len(sequences), 16):
        batch = sequences[first : first + 16]
        for sequence, seen in zip(
            batch,
            record(model, family, 0, batch, pad_id=pad_id, logits=True),
            strict=True,
        ):
            assert seen.argmax is not None and seen.probability is not None
            right = seen.argmax.cpu() == torch.tensor(sequence.learned)
            answers.append((bool(right.all()), float(seen.probability.mean())))
    return answers
