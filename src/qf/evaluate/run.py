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

import ctypes
import gc
import hashlib
import json
import os
import platform
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
import transformers

import qf
from qf.cues import words
from qf.demo.measure import SKILLS, Taught, made_up_facts
from qf.digest import digest_of
from qf.errors import LessonError, ModelError, QFError
from qf.evaluate import published
from qf.evaluate.datasets import Edit, read
from qf.evaluate.metrics import contains, harmonic_mean, kept, mean, unchanged
from qf.generate import Generator
from qf.lesson import messages
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

GENERATED = "generated"
AROUND = 300  # questions beside made-up facts: half about what is known, half about strangers
WARM_UP = "The library closes at nine.", "When does the library close?", "At nine."

TAUGHT_TOO = "locality prompt that is taught as well"
UNFIT = "does not fit into the model's context"


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


# What is taught, and what is asked beside it


@dataclass(frozen=True)
class Beside:
    """A question that teaching should leave alone, and its answer where that is known.

    `statement` is what the method `prompt` puts before it.
    """

    query: str
    answer: str | None
    statement: str


@dataclass(frozen=True)
class Material:
    """Facts to teach, what to ask beside them, and how many records were left out, by reason."""

    data: str
    seed: int
    edits: tuple[Edit, ...]
    beside: tuple[Beside, ...]
    skipped: Mapping[str, int]

    @property
    def digest(self) -> str:
        """A fingerprint of all that is taught and asked."""
        texts = [[asdict(part) for part in parts] for parts in (self.edits, self.beside)]
        return hashlib.sha256(json.dumps(texts).encode("ascii")).hexdigest()


def prepare(data: str, facts: int, seed: int = 1) -> Material:
    """The first `facts` of a file, or made-up ones where `data` is the word "generated".

    Of two that contradict each other the later one is left out and counted.

    Raises QFError: a file that `qf.evaluate.datasets.read` refuses, or fewer facts than wanted.
    """
    if data == GENERATED:
        return _generated(facts, seed)
    found = read(data, limit=facts, consistent=True)
    edits = tuple(found.edits)
    asked = [Beside(q, a, e.instruction) for e in edits for q, a in e.locality if q.strip()]
    beside, taught_too = _beside(edits, asked)
    skipped = found.skipped + Counter({TAUGHT_TOO: taught_too})
    return Material(data, seed, edits, beside, skipped)


def _generated(facts: int, seed: int) -> Material:
    if facts < 1:
        raise QFError(f"{facts} facts cannot be taught: ask for at least 1.")
    told = islice(_distinct(seed, facts), facts)
    edits = tuple(_edit(fact, number) for number, fact in enumerate(told))
    rng = random.Random(f"around/{seed}")
    skills = ["knowing"] * (AROUND // 2) + ['"I do not know."'] * (AROUND // 2)
    asked = []
    for number, question in enumerate(SKILLS[skill](rng) for skill in skills):
        statement = edits[number % len(edits)].instruction
        asked.append(Beside(question.query, question.expected[0], statement))
    beside, _ = _beside(edits, asked)
    return Material(GENERATED, seed, edits, beside, {})


def _distinct(seed: int, facts: int) -> Iterator[Taught]:
    """Made-up facts without end, none of them with a question of an earlier one."""
    taken: set[tuple[str, ...]] = set()
    drawn, count = 0, facts + facts // 4
    while True:
        for fact in made_up_facts(count, seed)[drawn:]:
            wordings = {_key(q) for q in (fact.question, *fact.rewordings)}
            if not wordings & taken:
                taken |= wordings
                yield fact
        drawn, count = count, 2 * count


def _edit(fact: Taught, number: int) -> Edit:
    others = (q for q in fact.rewordings if _key(q) != _key(fact.question))
    return Edit(
        id=str(number),
        instruction=fact.statement,
        prompt=fact.question,
        query=fact.question,
        target=fact.answer,
        subject=fact.subject,
        old="",
        rewordings=tuple(others),
        locality=(),
        source=GENERATED,
    )


def _beside(edits: Sequence[Edit], asked: Sequence[Beside]) -> tuple[tuple[Beside, ...], int]:
    """Each question once; those that are taught, which should change, are left out and counted."""
    taught = {_key(q) for edit in edits for q in (edit.query, *edit.rewordings)}
    once = {_key(question.query): question for question in reversed(asked)}
    left = [question for key, question in once.items() if key not in taught]
    return tuple(reversed(left)), len(once) - len(left)


def _key(question: str) -> tuple[str, ...]:
    return tuple(words(question))


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


def fitting(loaded: Loaded, material: Material, system: str | None) -> Material:
    """Leave out, and count, what the model cannot read, so that no evaluation ends halfway."""
    generator = Generator(loaded.transformer, loaded.tokenizer)

    def fits(statement: str, *queries: str) -> bool:
        told = f"{system}\n{statement}" if system else statement
        try:
            return all(bool(generator.prompt(messages(q, told))) for q in queries)
        except LessonError:
            return False

    edits = tuple(e for e in material.edits if fits(e.instruction, e.query, *e.rewordings))
    beside = tuple(b for b in material.beside if fits(b.statement, b.query))
    if not edits:
        raise QFError(
            f"None of the {len(material.edits)} facts fits into the model's context of"
            f" {generator.context} tokens: choose another model."
        )
    unfit = len(material.edits) - len(edits) + len(material.beside) - len(beside)
    skipped = Counter(material.skipped) + Counter({UNFIT: unfit})
    return replace(material, edits=edits, beside=beside, skipped=skipped)


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


class Peak:
    """How much more memory was in use at a time inside of the block than at its beginning.

    On a CUDA device its own; else the process's. `megabytes` is None where the system does not
    tell: it keeps one peak for the life of a process, which only Linux lets go of.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.megabytes: float | None = None
        self._start: float | None = None
        self._fresh = False  # whether the peak that the system keeps is of the block alone

    def __enter__(self) -> Peak:
        gc.collect()
        _give_back()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._fresh = True
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
                self._fresh = True
        self._start = self._most()
        return self

    def __exit__(self, *_: object) -> None:
        most = self._most()
        if most is not None and self._start is not None and (self._fresh or most > self._start):
            self.megabytes = (most - self._start) / 2**20

    def _most(self) -> float | None:
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return _most_resident()


def _give_back() -> None:
    """Let go of what is free already: it would be used again without being counted."""
    with suppress(OSError, AttributeError, TypeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


def _most_resident() -> float | None:
    """The most bytes of memory that this process had at a time; None where that is not told."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if platform.system() == "Darwin" else most * 1024)


# The file that an evaluation goes on from


class Journal:
    """A file of JSON lines: what is evaluated, then the figures of each method that is done.

    A line is there as a whole or not at all; one that was cut off is written again. `compared`
    names what two runs must have in common in their headers, digests with how they are told.

    Raises QFError: a file that is none of these, or that cannot be read or written.
    """

    def __init__(self, path: Path, compared: Mapping[str, str] | None = None) -> None:
        self.path, self.compared = path, _COMPARED if compared is None else compared
        self.header: dict[str, Any] | None = None
        self.lines: list[dict[str, Any]] = []  # all but the header
        self._whole = 0  # bytes up to the end of the last whole line
        if path.is_dir() or not path.parent.is_dir():
            raise self._unusable("name a file in a directory")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise self._unusable("no permission")
        if path.exists():
            self._read()

    def begin(self, header: dict[str, Any]) -> None:
        """Go on with the evaluation in the file, or begin one; QFError if it is another one."""
        header = {_FORMAT: _VERSION, **header}
        if self.header is None:
            self._append(header)
            self.header = header
            return
        if other := _difference(self.header, header, self.compared):
            raise QFError(
                f"{self.path} holds an evaluation of other settings ({other}): name another file"
                " with --out."
            )
        if self._whole < self.path.stat().st_size:
            os.truncate(self.path, self._whole)

    @property
    def figures(self) -> dict[str, Any]:
        """The latest figures of each method."""
        return {line["method"]: line["figures"] for line in self.lines}

    def add(self, method: str, figures: Mapping[str, Any], **of: int) -> None:
        """Write the figures of a method that is done, and `of` what they are."""
        line = {"method": method, **of, "figures": dict(figures)}
        self._append(line)
        self.lines.append(line)

    def _read(self) -> None:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise self._unusable(error.strerror or "it cannot be read") from None
        self._whole = content.rfind(b"\n") + 1
        try:
            lines = [json.loads(line) for line in content[: self._whole].splitlines()]
            if not content:
                return
            if lines[0][_FORMAT] != _VERSION:
                raise ValueError
            self.header = lines[0]
            self.lines = [dict(line, figures=dict(line["figures"])) for line in lines[1:]]
            _ = self.figures  # each has its method
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise QFError(
                f"{self.path} is not an evaluation of this qf: name another file with --out."
            ) from None

    def _append(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line) + "\n").encode("ascii")
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(file).st_size
                try:
                    if os.write(file, data) < len(data):
                        raise OSError(28, "No space left on device")
                    os.fsync(file)
                except BaseException:
                    os.ftruncate(file, size)
                    raise
            finally:
                os.close(file)
        except OSError as error:
            raise self._unusable(error.strerror or "it cannot be written") from None

    def _unusable(self, why: str) -> QFError:
        return QFError(f"The file {self.path} cannot be used ({why}): choose another with --out.")


_FORMAT, _VERSION = "qf eval", 1
_COMPARED = {
    "facts": "", "seed": "", "immediate": "", "layer": "", "system": "", "calibrate": "",
    "device": "", "versions": "", "data_digest": "other data", "model_digest": "another model",
}  # fmt: skip
"""What two runs must have in common to stand in one file; digests are told in words."""


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


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], compared: Mapping[str, str]) -> str:
    """The first setting in which two headers differ, in words, or ""."""
    for name, told in compared.items():
        if old.get(name) != new[name]:
            return told or f"{name} {old.get(name)!r}, not {new[name]!r}"
    return ""


def weights_digest(loaded: Loaded) -> str:
    """A fingerprint of the whole model, as it was loaded."""
    config = loaded.transformer.config.to_dict()
    kept = {k: v for k, v in config.items() if k[0] != "_" and k != "transformers_version"}
    return digest_of(
        config=json.loads(json.dumps(kept, default=str)),
        tensors=loaded.transformer.state_dict(),
        template=loaded.tokenizer.chat_template or "",
    )
