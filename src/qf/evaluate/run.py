"""One evaluation: the same facts taught to one model by several methods, and what came of each.

    none      nothing is taught: what the model says anyway
    prompt    each question has its own statement in the prompt: as good as reading gets
    paper     Eq. 3 of the paper, the facts' own words only
    joint     all facts in the weights at once, protected, in other words as well
    gated     each fact behind its gate, in other words as well
    consolidated
              the same, moved into the weights in the end; what is not answered there stays gated

Answers are what a user sees: generated greedily through the chat template, right where they hold
the target. Knows models and data; prints nothing.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
import transformers

import qf
from qf.digest import digest_of
from qf.errors import LessonError, ModelError, QFError
from qf.evaluate import published
from qf.evaluate.datasets import Edit
from qf.evaluate.journal import Journal
from qf.evaluate.material import Material, fitting
from qf.evaluate.metrics import contains, harmonic_mean, kept, mean, unchanged
from qf.evaluate.peak import Peak
from qf.loading import Loaded
from qf.model import REWORDINGS, Model

Figures: TypeAlias = dict[str, float | int | None]
Say: TypeAlias = Callable[[str], object]

CONSOLIDATED = "consolidated"
METHODS = {
    "none": 0,
    "prompt": 0,
    "paper": 0,
    "joint": REWORDINGS,
    "gated": REWORDINGS,
    CONSOLIDATED: REWORDINGS,
}
"""How many other wordings of its question the model writes and learns with each fact."""

WARM_UP = "The library closes at nine.", "When does the library close?", "At nine."


def methods_of(text: str) -> tuple[str, ...]:
    """The methods that a user names, each once.

    >>> methods_of("none, gated,none")
    ('none', 'gated')
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in METHODS:
            raise QFError(
                f"The method {name!r} is unknown: name some of {', '.join(METHODS)}, with commas"
                " between them."
            )
    return names


# One model, several methods


@dataclass(frozen=True)
class Settings:
    """How the model is served and taught; `immediate`: ask for each fact right after it, too."""

    layer: int | None = None
    system: str | None = None
    calibrate: bool = True
    immediate: bool = False


@dataclass(frozen=True)
class Report:
    """The figures of each method, in percent, and of what."""

    methods: dict[str, Figures]
    model: str
    data: str
    facts: int
    seed: int
    immediate: bool
    skipped: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, for JSON."""
        return asdict(self)


def evaluate(
    loaded: Loaded,
    material: Material,
    methods: Sequence[str],
    settings: Settings = Settings(),
    journal: Journal | None = None,
    say: Say = lambda _: None,
) -> Report:
    """Run the methods one after the other, but for those that the journal holds already.

    Raises QFError where nothing fits into the model's context, or the journal is of other settings.
    """
    material = fitting(loaded, material, settings.system)
    bench = Bench(loaded, material, settings, say)
    done: dict[str, Figures] = {}
    if journal:
        journal.begin(_header(bench))
        done = journal.figures
    for method in methods:
        if method not in done:
            done[method] = bench.figures(method)
            if journal:
                journal.add(method, done[method])
    return Report(
        methods={m: done[m] for m in methods},
        model=loaded.name,
        data=material.data,
        facts=len(material.edits),
        seed=material.seed,
        immediate=settings.immediate,
        skipped=dict(material.skipped),
    )


class Answers(NamedTuple):
    """What was said: to the facts' questions, to their rewordings (by fact), and beside them."""

    own: list[str]
    others: list[list[str]]
    beside: list[str]


class Teaching(NamedTuple):
    """How the teaching went: its seconds, and how many facts could not be taught.

    `immediate`: what was said to each fact's question right after it; None where nobody asked.
    """

    seconds: float = 0.0
    not_learned: int = 0
    immediate: list[str] | None = None


Told: TypeAlias = tuple[Edit, str, tuple[str, ...]]  # a fact, the answer to learn, rewordings


class Bench:
    """One model and one set of facts, for each method in turn.

    What the model says before it learns is asked once for all methods.
    """

    def __init__(self, loaded: Loaded, material: Material, settings: Settings, say: Say) -> None:
        self.loaded, self.material, self.settings, self.say = loaded, material, settings, say
        self.device: torch.device = loaded.transformer.get_input_embeddings().weight.device
        self.model_digest = weights_digest(loaded)
        with self.opened() as model:
            self.layer = model.layer

    def figures(self, method: str) -> Figures:
        """Run one method from an empty memory."""
        before, untaught = self.before, self._untaught  # asked for before another model is opened
        if method in ("none", "prompt"):
            self.say(f"{method} ...")
            told = method == "prompt"
            with self.opened() as model:
                with Peak(self.device) as peak:
                    answers = self._ask(model, told)
                others = self._published(model, untaught, answers, told)
            return figures(self.material, before, answers, Teaching(), peak.megabytes) | others
        lessons, seconds = self.lessons(reworded=METHODS[method] > 0)
        with self.opened(solver_of(method)) as model:
            warm_up(model)
            with Peak(self.device) as peak:
                teaching = self._teach(model, method, lessons)
                answers = self._ask(model)
            others = self._published(model, untaught, answers)
        teaching = teaching._replace(seconds=seconds + teaching.seconds)
        return figures(self.material, before, answers, teaching, peak.megabytes) | others

    def lessons(self, reworded: bool) -> tuple[list[Told], float]:
        """What to learn, and the seconds that the model took to write its part of it."""
        edits = self.material.edits
        answers, seconds = self._wanted
        if not reworded:
            return [(e, a, ()) for e, a in zip(edits, answers, strict=True)], seconds
        others, more = self._rewordings
        return list(zip(edits, answers, others, strict=True)), seconds + more

    def _teach(self, model: Model, method: str, lessons: Sequence[Told]) -> Teaching:
        immediate, seconds, not_learned = [], 0.0, 0
        for number, lesson in enumerate(lessons, 1):
            self.say(f"{method}: fact {number} of {len(lessons)} ...")
            started = time.perf_counter()
            not_learned += not learn(model, lesson)
            seconds += time.perf_counter() - started
            if self.settings.immediate:
                immediate.append(model.ask(lesson[0].query))
        if method == CONSOLIDATED:
            self.say(f"{method}: moving {len(lessons)} facts into the weights ...")
            started = time.perf_counter()
            model.consolidate()
            seconds += time.perf_counter() - started
        return Teaching(seconds, not_learned, immediate if self.settings.immediate else None)

    def _ask(self, model: Model, told: bool = False) -> Answers:
        """Ask for everything; `told`: with the statement in the prompt."""
        edits, beside = self.material.edits, self.material.beside
        asked = [(e.query, e.instruction) for e in edits]
        asked += [(q, e.instruction) for e in edits for q in e.rewordings]
        asked += [(b.query, b.statement) for b in beside]
        answers = iter(model.ask_many([q for q, _ in asked], [s if told else "" for _, s in asked]))
        return Answers(
            own=list(islice(answers, len(edits))),
            others=[list(islice(answers, len(e.rewordings))) for e in edits],
            beside=list(answers),
        )

    def _published(
        self, model: Model, untaught: published.Untaught, answers: Answers, told: bool = False
    ) -> Figures:
        """The figures that others report, by `published.NAMES`: percent, but for fluency."""
        self.say("Weighing answers as published figures do ...")
        found = published.scores(
            model, self.material.edits, self._known(told), untaught, answers.own, told=told
        )
        return {
            name: None if share is None else round(share * (1 if name == "fluency" else 100), 2)
            for name, share in found.items()
        }

    def _known(self, told: bool = False) -> list[published.Said]:
        """What is asked beside the facts and has an answer."""
        return [
            (b.query, b.statement if told else "", b.answer)
            for b in self.material.beside
            if b.answer is not None
        ]

    @cached_property
    def _untaught(self) -> published.Untaught:
        with self.opened() as model:
            return published.untaught(model, self.material.edits, self._known())

    @cached_property
    def before(self) -> list[str]:
        """What is said beside the facts before anything is taught."""
        self.say("Asking before anything is taught ...")
        with self.opened() as model:
            return model.ask_many([b.query for b in self.material.beside])

    @cached_property
    def _wanted(self) -> tuple[list[str], float]:
        """The answers to learn, and the seconds that it took to find them.

        What is learned is what the model says with the statement in the prompt, so that it speaks
        as it always does; where that does not hold the target, the target itself.
        """
        self.say("Reading the statements ...")
        with self.opened() as model:
            started = time.perf_counter()
            said = model.ask_many(*self._told)
            seconds = time.perf_counter() - started
        targets = (e.target for e in self.material.edits)
        return [a if contains(a, t) else t for a, t in zip(said, targets, strict=True)], seconds

    @cached_property
    def _rewordings(self) -> tuple[list[tuple[str, ...]], float]:
        """Other wordings of each question, by the model itself, and the seconds they took."""
        self.say("Writing other wordings ...")
        with self.opened() as model:
            started = time.perf_counter()
            queries, statements = self._told
            found = model.rewordings(statements, queries, REWORDINGS)
            return found, time.perf_counter() - started

    @property
    def _told(self) -> tuple[list[str], list[str]]:
        """The questions, and the statements that answer them."""
        edits = self.material.edits
        return [e.query for e in edits], [e.instruction for e in edits]

    @contextmanager
    def opened(self, solver: str = "paper") -> Iterator[Model]:
        """The model with an empty memory, which is thrown away afterwards."""
        options = asdict(self.settings)
        del options["immediate"]
        with (
            tempfile.TemporaryDirectory(prefix="qf-eval-") as scratch,
            Model(self.loaded, Path(scratch) / "memory", solver=solver, **options) as model,
        ):
            yield model


def solver_of(method: str) -> str:
    """The solver that one of METHODS learns with."""
    return "gated" if method == CONSOLIDATED else method


def learn(model: Model, lesson: Told) -> bool:
    """Whether the model could learn it; as a rule it is not answered either where not."""
    edit, answer, others = lesson
    try:
        model.learn(edit.instruction, edit.query, answer, rewordings=others, verify=False)
    except (LessonError, ModelError):
        return False
    return True


def warm_up(model: Model) -> None:
    """Measure what is measured once per model, at its first fact, before the clock runs."""
    with suppress(LessonError):
        model.learn(*WARM_UP, rewordings=0, verify=False)
    model.forget_all()


# Figures


def figures(
    material: Material,
    before: Sequence[str],
    answers: Answers,
    teaching: Teaching,
    peak: float | None,
) -> Figures:
    """Percent of right and of unchanged answers, seconds and memory; None where nothing tells.

    retained      the facts' own questions, after all of them were taught
    efficacy      the same right after each fact, where that was asked; else as `retained`
    paraphrase    the questions in other words, each fact counting the same
    locality      answers beside the facts that are what they were before
    kept          of those that were right before, the ones that still are
    score         the harmonic mean of retained, paraphrase and locality
    """
    targets = [e.target for e in material.edits]

    def right(said: Sequence[str]) -> float | None:
        return mean(contains(a, t) for a, t in zip(said, targets, strict=True))

    by_fact = [
        mean(contains(a, t) for a in said) for said, t in zip(answers.others, targets, strict=True)
    ]
    known = [
        (contains(was, b.answer), contains(now, b.answer))
        for b, was, now in zip(material.beside, before, answers.beside, strict=True)
        if b.answer is not None
    ]
    retained, locality = right(answers.own), unchanged(before, answers.beside)
    paraphrase = mean(share for share in by_fact if share is not None)
    shares = {
        "efficacy": retained if teaching.immediate is None else right(teaching.immediate),
        "retained": retained,
        "paraphrase": paraphrase,
        "locality": locality,
        "kept": kept([was for was, _ in known], [now for _, now in known]),
        "score": harmonic_mean([retained, paraphrase, locality]),
    }
    return {name: None if s is None else round(100 * s, 2) for name, s in shares.items()} | {
        "seconds_per_fact": round(teaching.seconds / len(targets), 6),
        "peak_memory_mb": None if peak is None else round(peak, 1),
        "not_learned": teaching.not_learned,
    }


def _header(bench: Bench) -> dict[str, Any]:
    material, settings = bench.material, bench.settings
    return {
        "data": material.data,
        "data_digest": material.digest,
        "facts": len(material.edits),
        "seed": material.seed,
        "immediate": settings.immediate,
        "model": bench.loaded.name,
        "model_digest": bench.model_digest,
        "layer": bench.layer,
        "system": settings.system,
        "calibrate": settings.calibrate,
        "device": bench.device.type,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """What the figures depend on beside the model."""
    return {
        "qf": qf.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def weights_digest(loaded: Loaded) -> str:
    """A fingerprint of the whole model, as it was loaded."""
    config = loaded.transformer.config.to_dict()
    kept = {k: v for k, v in config.items() if k[0] != "_" and k != "transformers_version"}
    return digest_of(
        config=json.loads(json.dumps(kept, default=str)),
        tensors=loaded.transformer.state_dict(),
        template=loaded.tokenizer.chat_template or "",
    )
