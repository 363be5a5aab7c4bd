"""The way of one lesson to a fact: completed, reworded, taught attempt by attempt, and verified.

Verified is what is answered as it was taught wherever the model is served. Where a step fails,
weights and memory are as they were.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from qf.asking import TURNS, Asking, Place
from qf.chat import Shown, takes_system
from qf.cues import words
from qf.errors import LessonError
from qf.lesson import Lesson, Significance
from qf.memory import Fact, new_id
from qf.recording import OnStep, Recording, attempts, stored
from qf.remembered import Remembered
from qf.remembering import Remembering
from qf.solving import Solver
from qf.study import check_statement, rewordings, sentences, write_question

REWORDINGS = 2
"""Other wordings of a question that a model writes and learns by itself."""
_TOLD_BY_USER = (
    "the chat template takes no system turn: the instruction stood in the question's turn"
)


@dataclass(frozen=True)
class Studied:
    """A statement of a text, the fact that was learned of it, if one was, and else why not."""

    statement: str
    fact: Fact | None
    query: str
    why: str


@dataclass(frozen=True)
class Given:
    """What is known of a lesson before the model completes it.

    Raises LessonError for what no model is needed to refuse.
    """

    instruction: str
    query: str | None
    answer: str | None
    significance: Significance
    image: Shown | None

    def __post_init__(self) -> None:
        if self.image is not None and self.query is None:
            raise LessonError("A picture may answer many questions: give yours with --query.")
        query = "?" if self.query is None else self.query
        answer, significance = self.answer, self.significance
        if answer is None:
            answer, significance = "?", "auto"  # how many words it will have is not known yet
        Lesson(self.instruction, query, answer, significance, self.image)


@dataclass(frozen=True)
class Verdict:
    """The answer to a query, whether it holds wherever it is served, in how many places, a note."""

    after: str
    verified: bool | None
    held: int
    note: str


_UNASKED = Verdict("", None, 0, "")


@dataclass
class Learning:
    """Teaches lessons to one model, beside what it remembers."""

    asking: Asking
    solver: Solver
    recording: Recording
    remembering: Remembering

    def learn(
        self,
        given: Given,
        wanted: int | Sequence[str] | None,
        verify: bool,
        rollback: bool,
        on_step: OnStep,
    ) -> Fact:
        """Teach one lesson; see `qf.model.Model.learn`."""
        lesson = self.completed(given)
        on_step("question", lesson)
        others = self.reworded(lesson, (REWORDINGS if verify else 0) if wanted is None else wanted)
        on_step("rewordings", others)
        before = self.asking.answers([lesson.query])[0] if verify else ""
        on_step("before", before)
        mind = self.remembering
        kept, replaced = self.beside(lesson.query)
        learned = self.asking.acting.learned
        with mind.undone():
            fact, taught = self._teach(lesson, others, kept, verify, on_step)
            fact = mind.led(lambda: replace(fact, before=before))
            if replaced:
                fact = replace(fact, note=_joined(fact.note, _replaces(replaced)))
            if fact.verified is False and rollback:
                mind.put_back(learned)
                return replace(fact, note=_joined(fact.note, "rolled back: nothing was kept"))
            old = [f.id for f in replaced]
            mind.led(lambda: mind.memory.add(fact, taught.rows, replacing=old))
        mind.adopt({**kept, fact.id: mind.of(fact, taught.rows)})
        mind.gate(mind.facts)
        return fact

    def beside(self, query: str) -> tuple[dict[str, Remembered], list[Fact]]:
        """The facts that stay when this query is taught, and those that are replaced."""
        said = words(query)
        return self.remembering.without({(system, *said) for system in self.asking.systems})

    def completed(self, given: Given) -> Lesson:
        """Complete what was given; the base weights answer, so that earlier facts play no part."""
        query, answer = given.query, given.answer
        if query is None:
            query = write_question(self.asking.drafts, given.instruction)
        if answer is None:
            answer = self.asking.base_showing(given.image)([query], [given.instruction])[0]
            if not answer:
                raise LessonError(
                    f"The model gives no answer to {query!r} with the instruction at hand: give"
                    " one with --answer."
                )
        return Lesson(given.instruction, query, answer, given.significance, given.image)

    def reworded(self, lesson: Lesson, wanted: int | Sequence[str]) -> tuple[str, ...]:
        """Other wordings of a lesson's query: those that are given, or so many of the model's."""
        if isinstance(wanted, int):
            ask = self.asking.base_showing(lesson.image)
            drafts = self.asking.drafts
            return rewordings(drafts, ask, [lesson.instruction], [lesson.query], wanted)[0]
        if isinstance(wanted, str) or not all(isinstance(w, str) and w.strip() for w in wanted):
            raise LessonError(
                f"The rewordings {wanted!r} are none: give a number, or a list of questions."
            )
        return tuple(wanted)

    def _teach(
        self,
        lesson: Lesson,
        others: Sequence[str],
        kept: Mapping[str, Remembered],
        verify: bool,
        on_step: OnStep,
    ) -> tuple[Fact, Remembered]:
        """Learn beside the `kept` facts, by the first attempt that verifies.

        Where none does, by the last one of those that are answered in the most places.
        """
        fact_id = self.remembering.led(lambda: new_id(kept))
        best: tuple[int, Fact, Remembered] | None = None
        taught, says_otherwise, seconds = None, False, 0.0
        for note, rehearsed, significance in attempts(lesson.significance, self.solver.gated):
            if says_otherwise and not rehearsed:
                continue
            started = time.perf_counter()
            found = self.recording.record(
                lesson, rehearsed, significance, self.solver.gated, on_step=on_step
            )
            says_otherwise = found.open_book_agrees is False
            if says_otherwise and not rehearsed:
                continue
            taught = Remembered(lesson, tuple(others), self.asking.system, stored([found]))
            if self.solver.gated:
                rows = self.recording.for_gate(taught, found)
            else:
                rows = self.recording.for_weights(lesson, others, rehearsed, found)
            taught = replace(taught, held=rows)
            self.remembering.install({**kept, fact_id: taught})
            seconds += time.perf_counter() - started
            on_step("rows", taught.rows)
            verdict = self._verdict(lesson, others) if verify else _UNASKED
            on_step("after", (verdict.after, verdict.verified))
            fact = self._fact(fact_id, taught, found.learned_tokens, verdict, note)
            if best is None or verdict.held >= best[0]:
                best = verdict.held, fact, taught
            if fact.verified is not False:
                break
        assert best is not None
        _, fact, chosen = best
        if chosen is not taught:
            self.remembering.install({**kept, fact_id: chosen})
        return replace(fact, seconds=seconds), chosen

    def _fact(
        self, name: str, taught: Remembered, tokens: tuple[int, ...], verdict: Verdict, note: str
    ) -> Fact:
        """What is kept of a lesson that was taught; the time it took is not known yet."""
        lesson = taught.lesson
        by_user = "" if takes_system(self.asking.loaded.tokenizer) else _TOLD_BY_USER
        return Fact(
            id=name,
            instruction=lesson.instruction,
            query=lesson.query,
            answer=lesson.answer,
            layer=self.asking.layer,
            rows=taught.count,
            solver=self.solver.name,
            significance=_plain(lesson.significance),
            system=self.asking.system,
            tokens=tokens,
            verified=verdict.verified,
            before="",
            after=verdict.after,
            seconds=0.0,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            note=_joined(note, by_user, verdict.note),
            rewordings=taught.others,
            image=lesson.image.name if lesson.image else "",
            image_sha256=lesson.image.sha256 if lesson.image else "",
        )

    def _verdict(self, lesson: Lesson, others: Sequence[str]) -> Verdict:
        """Ask for a lesson wherever its query is served, and in its other wordings.

        Where no turns are served, the middle of a conversation is told of and does not decide.
        """
        served, system = self.asking.places(), self.asking.system
        in_turns = self.solver.gated and not self.asking.turns
        places = served + ([Place(system, TURNS)] if in_turns else [])
        answers = self.asking.answers(
            [lesson.query] * len(places) + [*others], places + [served[0]] * len(others)
        )
        held = [_holds(lesson, a) for a in answers]
        lost = [p.told for p, h in zip(places, held, strict=False) if not h]
        where = 0 < len(lost) < len(places) and f"not answered {', '.join(lost)}"
        reworded = held[len(places) :].count(False)
        why = reworded and f"{reworded} of {len(others)} rewordings not answered"
        holding = held[: len(served)].count(True)
        return Verdict(answers[0], holding == len(served), holding, _joined(where or "", why))


def study(
    text: str, learn: Callable[[str], Fact], on_statement: Callable[[Studied], None]
) -> list[Studied]:
    """Have each statement of a text learned, or rolled back; see `qf.model.Model.study`."""
    stated = sentences(text)
    if not stated:
        raise LessonError("The text states nothing: give whole sentences, one fact in each.")
    done = []
    for statement in stated:
        try:
            check_statement(statement)
            fact = learn(statement)
            why = "" if fact.verified else f"it would answer: {fact.after}"
            studied = Studied(statement, fact if fact.verified else None, fact.query, why)
        except LessonError as error:
            studied = Studied(statement, None, "", str(error))
        on_statement(studied)
        done.append(studied)
    return done


def says(answer: str, expected: str) -> bool:
    """Whether an answer holds the expected one: its words in a row; case and punctuation aside.

    >>> says("Oxinnovate was started by Qi.", "started by qi")
    True
    """
    given, wanted = words(answer), words(expected)
    return bool(wanted) and any(
        given[i : i + len(wanted)] == wanted for i in range(len(given) - len(wanted) + 1)
    )


def _holds(lesson: Lesson, answer: str) -> bool:
    """Whether the answer is the lesson's; where some words were left free, whether it holds it."""
    if lesson.significance is None or lesson.significance == "auto":
        return words(answer) == words(lesson.answer)
    return says(answer, lesson.answer)


def _plain(significance: Significance) -> Any:
    if significance is None or isinstance(significance, str):
        return significance
    return [float(s) for s in significance]


def _replaces(facts: Sequence[Fact]) -> str:
    return "replaces " + ", ".join(f"{f.id} ({f.answer})" for f in facts)


def _joined(*notes: str | int) -> str:
    return "; ".join(str(note) for note in notes if note)
