"""What an evaluation teaches, and what it asks beside it: from a file, or made up.

What contradicts an earlier fact, or does not fit into the model, is left out and counted.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice

from qf.chat import messages
from qf.cues import words
from qf.demo.measure import SKILLS, Taught, made_up_facts
from qf.errors import LessonError, QFError
from qf.evaluate.datasets import Edit, read
from qf.generate import Generator
from qf.loading import Loaded

GENERATED = "generated"
AROUND = 300  # questions beside made-up facts: half about what is known, half about strangers

TAUGHT_TOO = "locality prompt that is taught as well"
UNFIT = "does not fit into the model's context"


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
