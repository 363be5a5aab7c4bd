"""From a lesson to its rows, under the base weights: for W, or to act behind the gate.

QF-instruct and QF-update are passes (qf.method.passes); here is what they are given, and what of
them is kept. Knows no other facts, so that these play no part in a lesson's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from qf.asking import Asking, Place
from qf.calibrator import Calibrator
from qf.lesson import AlignedTokens, Lesson, Significance, check_fits, pair
from qf.memory import Fact, FactRows
from qf.method.passes import (
    TOGETHER,
    Rows,
    pooled,
    record,
    rows,
    rows_batch,
    still_needed,
)
from qf.remembered import Remembered
from qf.solving import Solver

KEPT = 0.1
"""The significance of a token that the model gives anyway, and is to go on giving: its row asks for
no change. Without such rows one fact in ten disturbs its own answer."""

OnStep = Callable[[str, Any], None]
"""Told of the steps of a learn, by name: "question" with the Lesson, "rewordings" with the other
wordings, "before" with the answer; then for each attempt "passes" with the sequences of QF-instruct
and QF-update (AlignedTokens), "rows" with the FactRows, and "after" with (answer, verified)."""


@dataclass(frozen=True)
class LearnedToken:
    """A token of an answer: whether it was learned, and ‖r‖ / ‖y‖, from 0 to 1, where known."""

    text: str
    learned: bool
    change: float | None


def attempts(significance: Significance, gated: bool) -> Iterator[tuple[str, bool, Significance]]:
    """Ways to learn a lesson, the least intrusive first: (note, rehearsed, significance).

    "auto" leaves tokens free that the closed-book pass gave anyway; where the change disturbs
    them, all are learned. Behind a gate nothing is disturbed, and a rehearsed pass, which tells the
    answer most plainly, comes first.
    """
    if gated:
        yield "", True, significance
        yield "learned from a pass without rehearsal", False, significance
        return
    yield "", False, significance
    if significance == "auto":
        yield "learned every token of the answer", False, None
        significance = None
    yield "learned from a pass in which the answer had been given once", True, significance


@dataclass
class Recording:
    """Records the rows of lessons in one model, as it is served."""

    asking: Asking
    calibrator: Calibrator
    solver: Solver

    def pair(
        self, lesson: Lesson, rehearsed: bool, place: Place
    ) -> tuple[AlignedTokens, AlignedTokens]:
        """The sequences of QF-instruct and QF-update."""
        tokenizer, options = self.asking.loaded.tokenizer, self.asking.options
        return pair(tokenizer, lesson, place.system, rehearsed, place.earlier, options)

    def check(self, known: Remembered) -> None:
        """Raise LessonError or ModelError for a fact that this model cannot have been taught.

        It is one whose prompt, answer or other wordings it cannot read.
        """
        if not known.lesson.image:  # a picture is not there to be shown again
            instruct, _ = self.pair(known.lesson, False, self.asking.places()[0])
            check_fits(instruct, self.asking.generator.context)
        for wording in known.wordings:
            self.asking.asked(wording, known.system)

    def record(
        self,
        lesson: Lesson,
        rehearsed: bool,
        significance: Significance,
        gated: bool,
        logits: bool = False,
        on_step: OnStep = lambda _name, _what: None,
    ) -> Rows:
        """QF-instruct and QF-update, under the base weights.

        Behind a gate every token of the answer has its row, those that are left free as well, and
        the pass is cut off in layer i: which tokens the model gives anyway makes no difference. So
        it has where these are to be kept in the weights (see `keeping`).
        """
        if gated and significance == "auto":
            significance = None
        instruct, update = self.pair(lesson, rehearsed, self.asking.places()[0])
        check_fits(instruct, self.asking.generator.context)
        on_step("passes", (instruct, update))
        with self.asking.acting.base():
            return rows(
                self.asking.loaded.transformer,
                self.asking.family,
                self.asking.layer,
                instruct,
                update,
                significance,
                pad_id=self.asking.generator.pad_id,
                free=gated or (significance == "auto" and self.solver.keeps),
                logits=logits,
            )

    def for_weights(
        self, lesson: Lesson, others: Sequence[str], rehearsed: bool, found: Rows
    ) -> FactRows:
        """The rows of the lesson, and those that its other wordings and places need beside them.

        What is needed is told by the weights that the lesson's own rows alone give, so that other
        facts play no part in it. These may be left in place: let the caller say what acts next.
        """
        parts = [keeping(found) if self.solver.keeps else found]
        first, *places = self.asking.places()
        asked = [(replace(lesson, query=other), first) for other in others]
        asked += [(lesson, place) for place in places]
        if asked:
            pairs = [self.pair(each, rehearsed, place) for each, place in asked]
            self.asking.acting.put(self.solver.solve([stored(parts)]))
            where = self.asking.loaded.transformer, self.asking.family, self.asking.layer
            pad_id = self.asking.generator.pad_id
            updates = still_needed(*where, [u for _, u in pairs], pad_id=pad_id)
            pairs = [(i, u) for (i, _), u in zip(pairs, updates, strict=True) if any(u.weights)]
            if pairs:
                plain: list[Significance] = [None] * len(pairs)
                with self.asking.acting.base():
                    parts += rows_batch(*where, pairs, plain, pad_id=pad_id)
        return stored(parts)

    def for_gate(self, known: Remembered, found: Rows) -> FactRows:
        """The rows of a lesson with the outputs that they give, and what the gate finds it by."""
        pooled = self.measured(known)
        layer = self.calibrator.gate().layer
        rows = stored([found])
        return replace(rows, outputs=found.outputs.cpu(), pooled=pooled, pooled_layer=layer)

    def measured(self, fact: Remembered) -> torch.Tensor:
        """The pooled activations of the fact's wordings, in the layer that the gate looks at."""
        with self.asking.acting.base():
            gate = self.calibrator.gate()
            prompts = [self.asking.asked(q, fact.system) for q in fact.wordings]
            spans = [(p.ids, p.span) for p in prompts]
            transformer = self.asking.loaded.transformer
            return pooled(transformer, self.asking.family, [gate.layer], spans)[0]

    def whole(self, known: Remembered) -> tuple[FactRows, list[AlignedTokens]]:
        """A row for every token of the answer in each wording and place, and whose rows these are.

        The sequences are those of QF-update, in order. Where the open-book pass would not have
        given the answer, the lesson is rehearsed; where it does not give it then either, the rows
        lead elsewhere and are left out, but for those of the query as it was taught.
        """
        first, *places = self.asking.places()
        asked = [(replace(known.lesson, query=query), first) for query in known.wordings]
        asked += [(known.lesson, place) for place in places]
        found: list[Rows] = []
        sequences: list[AlignedTokens] = []
        with self.asking.acting.base():
            for lesson, place in asked:
                each, update = self._every_token(lesson, place, rehearsed=False)
                if not each.open_book_agrees:
                    each, update = self._every_token(lesson, place, rehearsed=True)
                if lesson.significance == "auto":
                    each = keeping(each)
                if found and not each.open_book_agrees:
                    each = replace(each, significance=torch.zeros_like(each.significance))
                found.append(each)
                sequences.append(update)
        return stored(found), sequences

    def _every_token(
        self, lesson: Lesson, place: Place, rehearsed: bool
    ) -> tuple[Rows, AlignedTokens]:
        """A row for every token of the answer, and the sequence of QF-update that they are of.

        To be called while the base weights act.
        """
        instruct, update = self.pair(lesson, rehearsed, place)
        check_fits(instruct, self.asking.generator.context)
        found = rows(
            self.asking.loaded.transformer,
            self.asking.family,
            self.asking.layer,
            instruct,
            update,
            lesson.significance,
            pad_id=self.asking.generator.pad_id,
            free=True,
            logits=True,
        )
        return found, update

    def probabilities(self, sequences: Sequence[AlignedTokens]) -> torch.Tensor:
        """What W, as it is now, gives each of the sequences' tokens, one after another: (n,)."""
        where = self.asking.loaded.transformer, self.asking.family, self.asking.layer
        found: list[torch.Tensor] = []
        for first in range(0, len(sequences), TOGETHER):
            batch = sequences[first : first + TOGETHER]
            seen = record(*where, batch, pad_id=self.asking.generator.pad_id, logits=True)
            found += [s.probability.cpu() for s in seen if s.probability is not None]
        return torch.cat(found)

    def gated(self, known: Remembered) -> Remembered:
        """The fact with the rows that it takes to act behind the gate."""
        if known.rows.outputs is not None:
            return replace(known, consolidated=False) if known.consolidated else known
        if known.lesson.image:  # taught in the weights, it stays there
            return known
        for _, rehearsed, significance in attempts(known.lesson.significance, gated=True):
            found = self.record(known.lesson, rehearsed, significance, gated=True, logits=True)
            if found.open_book_agrees:
                break
        return replace(known, held=self.for_gate(known, found), consolidated=False)

    def learned_tokens(
        self, taught: Lesson | Fact, rows: FactRows, ids: Sequence[int] = ()
    ) -> list[LearnedToken]:
        """The tokens of an answer and the end of its turn, with what the rows changed of each."""
        fields = taught.instruction, taught.query, taught.answer, taught.significance
        learned = self.pair(Lesson(*fields), False, self.asking.places()[0])[1].learned
        texts = pieces(self.asking.loaded.tokenizer, learned)
        if len(rows.keys) != len(learned) or rows.outputs is None:
            return [LearnedToken(x, t in ids, None) for x, t in zip(texts, learned, strict=True)]
        change = (rows.deltas.norm(dim=1) / rows.outputs.norm(dim=1)).nan_to_num().clamp(0, 1)
        each = zip(texts, rows.significance.tolist(), change.tolist(), strict=True)
        return [LearnedToken(text, s > 0, c) for text, s, c in each]


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, so that together they are the text of all.

    A character of several tokens is given with the last of them.
    """
    found, shown = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=False)
        text = text if not text.endswith("\ufffd") or end == len(ids) else shown
        found.append(text[len(shown) :])
        shown = text
    return found


def keeping(rows: Rows) -> Rows:
    """The rows, those that were left free asking for no change, with the significance KEPT."""
    free = rows.significance == 0
    return replace(
        rows,
        deltas=rows.deltas.masked_fill(free[:, None], 0),
        significance=rows.significance.masked_fill(free, KEPT),
    )


def stored(parts: Sequence[Rows]) -> FactRows:
    """The rows of several passes in one, on the CPU."""
    return FactRows(
        torch.cat([p.keys for p in parts]).cpu(),
        torch.cat([p.deltas for p in parts]).cpu(),
        torch.cat([p.significance for p in parts]).cpu(),
    )
