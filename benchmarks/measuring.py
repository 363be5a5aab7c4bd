"""What becomes of facts that are taught by each method, counted, and kept line by line.

A line of the journal is one method on one set of facts; its shares are [right, asked], so that
lines can be put together exactly. Prints nothing.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.teachers import METHODS, UNTAUGHT, Method, Teacher, Teachers, missing
from qf.demo.curriculum import UNKNOWN
from qf.demo.measure import EARLIER, ELSEWHERE
from qf.errors import QFError
from qf.evaluate.journal import Journal
from qf.evaluate.material import GENERATED, Material, fitting, prepare
from qf.evaluate.metrics import contains, exact
from qf.evaluate.peak import Peak
from qf.evaluate.run import Bench, Settings, Told, versions, weights_digest
from qf.loading import Loaded
from qf.model import MAX_TOKENS

Line: TypeAlias = dict[str, Any]
Share: TypeAlias = list[int]  # right, asked

FIRST = 3  # facts after which it is estimated how long all of them take
COMPARED = dict.fromkeys(
    ("seed", "singles", "calibrate", "layer", "threads", "machine", "versions"), ""
) | {"data_digest": "other facts", "model_digest": "another model"}
"""What must be the same from one start to the next; digests are told in words."""


@dataclass(frozen=True)
class Plan:
    """What to measure: numbers of facts, methods, and how many memories of one fact each.

    `minutes` is how long one method may teach; `given` are the options of the command by which
    the model and its facts differ from the usual ones.
    """

    facts: Sequence[int]
    methods: Sequence[str] = tuple(METHODS)
    singles: int = 20
    minutes: float = 10.0
    seed: int = 1
    settings: Settings = field(default_factory=Settings)
    given: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                raise QFError(
                    f"The method {name!r} is unknown: name some of {', '.join(METHODS)} after"
                    " --methods."
                )
        for option, value in (
            ("--facts", min(self.facts, default=0)),
            ("--singles", self.singles),
            ("--minutes-each", self.minutes),
        ):
            if not value > 0:
                raise QFError(f"{option} is {value:g}: give at least one number above 0.")


class TooLongError(Exception):
    """A method would take longer than it may; `seconds`: how long, estimated."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def measure(
    loaded: Loaded, plan: Plan, journal: Journal, say: Callable[[str], object] = lambda _: None
) -> None:
    """Measure what the journal lacks, and write each line to it as soon as it is known.

    Raises QFError: a journal of other settings, or a method that left the model changed.
    """
    first = Bench(loaded, prepare(GENERATED, 1, plan.seed), plan.settings, say)
    journal.begin(_header(first, plan))
    teachers = Teachers()
    for facts in plan.facts:
        for part, material in _parts(facts, plan):
            wanted = _missing(journal, plan, facts, part)
            if not wanted:
                continue
            # With room for the longest surroundings in which it is asked.
            bench = Bench(loaded, fitting(loaded, material, ELSEWHERE), plan.settings, say)
            for name in wanted:
                say(f"{facts} facts, part {part + 1}, {name} ...")
                found = _one(bench, name, teachers, plan.minutes)
                if weights_digest(loaded) != first.model_digest:
                    raise QFError(
                        f"The method {name!r} left the model changed: nothing after it would be"
                        " of this model; mend its undo."
                    )
                journal.add(name, found, facts=facts, part=part)


def _parts(facts: int, plan: Plan) -> Iterator[tuple[int, Material]]:
    """The memories of so many facts; single facts share the questions beside them."""
    if facts > 1:
        yield 0, prepare(GENERATED, facts, plan.seed)
        return
    whole = prepare(GENERATED, plan.singles, plan.seed)
    for part, edit in enumerate(whole.edits):
        beside = tuple(
            replace(b, statement=edit.instruction) for b in whole.beside[part :: plan.singles]
        )
        yield part, replace(whole, edits=(edit,), beside=beside)


def _missing(journal: Journal, plan: Plan, facts: int, part: int) -> list[str]:
    """The methods without a line, or with one that says only why they did not run, no longer so."""
    done = {(x["facts"], x["part"], x["method"]): x["figures"] for x in journal.lines}

    def wanted(name: str) -> bool:
        found = done.get((facts, part, name))
        if found is None:
            return True
        if "lacks" in found:
            return not missing(name)
        return found.get("would_take", 0) > 0 and found["would_take"] <= 60 * plan.minutes

    return [name for name in plan.methods if wanted(name)]


def _one(bench: Bench, name: str, teachers: Teachers, minutes: float) -> Line:
    """The figures of one method, or why there are none."""
    if lacks := missing(name):
        return {"lacks": lacks}
    lessons, writing = bench.lessons(METHODS[name].reworded) if name not in UNTAUGHT else ([], 0.0)
    before = bench.before
    teacher = teachers.of(bench, name)
    try:
        with Peak(bench.device) as peak:
            cost = taught(teacher, lessons, METHODS[name], 60 * minutes)
        found = counts(bench.material, before, ask(teacher, bench.material, name))
    except TooLongError as error:
        return {"would_take": round(error.seconds, 1), "limit": 60 * minutes}
    finally:
        teacher.undo()
    if name in UNTAUGHT:
        return found
    n = len(bench.material.edits)
    return found | {
        "seconds_per_fact": round(cost.seconds, 6),
        "steps_per_fact": round(cost.steps, 2),
        "writing_per_fact": round(writing / n, 6),
        "mb_per_fact": None if peak.megabytes is None else round(peak.megabytes / n, 4),
        "not_learned": cost.not_learned,
    }


class Cost(NamedTuple):
    """Seconds per fact, how many facts could not be learned, and steps of descent per fact."""

    seconds: float
    not_learned: int
    steps: float


def taught(teacher: Teacher, lessons: Sequence[Told], method: Method, limit: float) -> Cost:
    """Teach, and tell what it took.

    One by one, the seconds are the median over the facts, so that a moment in which the machine
    was busy does not count. Raises TooLongError as soon as all is bound to take more than `limit`
    seconds.
    """
    if not lessons:
        return Cost(0.0, 0, 0.0)
    if method.together:
        if 0 < method.trial < len(lessons):
            trial = _seconds(lambda: teacher.teach(lessons[: method.trial]))[0]
            teacher.undo()
            _bound(trial / method.trial * len(lessons), limit)
            teacher.begin()
        with steps_counted() as steps:
            seconds, failed = _seconds(lambda: teacher.teach(lessons))
        return Cost(seconds / len(lessons), failed, len(steps) / len(lessons))
    each, not_learned = [], 0
    with steps_counted() as steps:
        for number, lesson in enumerate(lessons, 1):
            seconds, failed = _seconds(partial(teacher.teach, [lesson]))
            each.append(seconds)
            not_learned += failed
            if number >= FIRST:  # the latest facts tell: with some methods each takes longer
                left = statistics.median(each[-10:]) * (len(lessons) - number)
                _bound(sum(each) + left, limit)
    return Cost(statistics.median(each), not_learned, len(steps) / len(lessons))


@contextmanager
def steps_counted() -> Iterator[list[None]]:
    """A list that grows by one with each step of any optimizer."""
    steps: list[None] = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(None))
    try:
        yield steps
    finally:
        hook.remove()


def _seconds(work: Callable[[], int]) -> tuple[float, int]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _bound(seconds: float, limit: float) -> None:
    if seconds > limit:
        raise TooLongError(seconds)


class Asked(NamedTuple):
    """What was said: to the facts' questions, in other words (by fact), beside them, and to the
    facts' questions in two other surroundings; None where nobody asked.
    """  # noqa: D205 - the list is longer than a line

    own: list[str]
    others: list[list[str]]
    beside: list[str]
    conversation: list[str] | None
    elsewhere: list[str] | None


def ask(teacher: Teacher, material: Material, name: str) -> Asked:
    """Ask for everything; with the method `prompt` each with its statement before it."""
    edits, beside = material.edits, material.beside
    told = name == "prompt"
    own = [e.query for e in edits]
    statements = [e.instruction if told else "" for e in edits]
    queries = own + [q for e in edits for q in e.rewordings] + [b.query for b in beside]
    before = [
        *statements,
        *(s for e, s in zip(edits, statements, strict=True) for _ in e.rewordings),
    ]
    before += [b.statement if told else "" for b in beside]
    answers = iter(teacher.ask_many(queries, before))
    conversation = elsewhere = None
    if name != "none":
        conversation = teacher.ask_many(own, statements, earlier=EARLIER)
        elsewhere = teacher.ask_many(
            own, ["\n".join(filter(None, (ELSEWHERE, s))) for s in statements]
        )
    return Asked(
        own=list(islice(answers, len(edits))),
        others=[list(islice(answers, len(e.rewordings))) for e in edits],
        beside=list(answers),
        conversation=conversation,
        elsewhere=elsewhere,
    )


def counts(material: Material, before: Sequence[str], asked: Asked) -> dict[str, Share | None]:
    """Count the right and the unchanged answers.

    same, other, conversation, elsewhere    the answer holds the fact's, word for word
    *_exact                                 and nothing else
    known, strangers                        right before, and right still
    unchanged                               beside the facts, the same as before
    """
    targets = [e.target for e in material.edits]
    own = list(zip(asked.own, targets, strict=True))
    other = [(a, t) for said, t in zip(asked.others, targets, strict=True) for a in said]
    kept: dict[str, list[bool]] = {"known": [], "strangers": []}
    for b, was, now in zip(material.beside, before, asked.beside, strict=True):
        if b.answer is not None and contains(was, b.answer):
            kept["strangers" if b.answer == UNKNOWN else "known"].append(contains(now, b.answer))

    def around(said: list[str] | None) -> Share | None:
        if said is None:
            return None
        return share([contains(a, t) for a, t in zip(said, targets, strict=True)])

    return {
        "same": share([contains(a, t) for a, t in own]),
        "same_exact": share([exact(a, t) for a, t in own]),
        "other": share([contains(a, t) for a, t in other]),
        "other_exact": share([exact(a, t) for a, t in other]),
        **{name: share(right) for name, right in kept.items()},
        "unchanged": share([a == b for a, b in zip(before, asked.beside, strict=True)]),
        "conversation": around(asked.conversation),
        "elsewhere": around(asked.elsewhere),
    }


def share(right: Sequence[bool]) -> Share:
    """[right, asked].

    >>> share([True, False, True])
    [2, 3]
    """
    return [sum(right), len(right)]


def _header(bench: Bench, plan: Plan) -> Line:
    return {
        "data_digest": prepare(GENERATED, 10, plan.seed).digest,
        "seed": plan.seed,
        "singles": plan.singles,
        "given": list(plan.given),
        "calibrate": plan.settings.calibrate,
        "model": bench.loaded.name,
        "model_digest": bench.model_digest,
        "layer": bench.layer,
        "max_tokens": MAX_TOKENS,
        "threads": torch.get_num_threads(),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "device": bench.device.type},
        "versions": versions(),
    }


def _cpu() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
