"""The relations of everyday life, each in many wordings: the text files under `wordings/`.

A file holds blocks of lines, one block a relation, divided by empty lines:

    # the project leader
    x: the {word} project / Project {word}
    y: {person}
    S: {y} leads {x}. | {x} is led by {y}. | {y} is in charge of {x}.
    Q: Who leads {x}? | Who is in charge of {x}? | Who is the leader of {x}?
    I: who leads {x} | who is in charge of {x}
    A: {x} is led by {y}.

`x` and `y` are shapes of the subject and the object, one of which is drawn, their kinds in braces
(`qf.demo.names.KINDS`); S the statements, Q the questions, I the questions as they stand after "Can
you tell me", A the answer. It knows nothing of models.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from qf.demo.names import KINDS, made_up


@dataclass(frozen=True)
class Worded:
    """A relation as its block tells it; `shared` are questions that are asked under another one.

    `plainest` is the question that the block names first, if that is one of `shared`.
    """

    name: str
    subjects: tuple[str, ...]
    objects: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    indirect: tuple[str, ...]
    answer: str
    shared: tuple[str, ...] = ()
    plainest: str = ""


_SLOT = re.compile(r"\{(\w+)\}")


def fill(rng: random.Random, shape: str) -> str:
    """The shape with a made-up name for each kind in braces.

    >>> fill(random.Random(0), "my dog")
    'my dog'
    """
    return _SLOT.sub(lambda slot: made_up(rng, slot[1]), shape)


def parse(text: str) -> list[Worded]:
    """The relations of a file's text; ValueError names the block that is not one."""
    blocks = (b.strip() for b in re.split(r"\n\s*\n", text))
    return [_parse_block(b) for b in blocks if b]


def _parse_block(block: str) -> Worded:
    head, *lines = block.splitlines()
    given = dict(line.split(": ", 1) for line in lines)
    if not head.startswith("# ") or list(given) != ["x", "y", "S", "Q", "I", "A"]:
        raise ValueError(f"not a relation: {block!r}")

    def several(key: str, divider: str = " | ") -> tuple[str, ...]:
        return tuple(part.strip() for part in given[key].split(divider))

    worded = Worded(
        head[2:], several("x", " / "), several("y", " / "),
        several("S"), several("Q"), several("I"), given["A"].strip(),
    )  # fmt: skip
    for problem in _problems(worded):
        raise ValueError(f"{worded.name}: {problem}")
    return worded


def _problems(w: Worded) -> list[str]:
    """What is wrong with a relation, in words."""
    found = [
        f"unknown kind {k!r}"
        for s in w.subjects + w.objects
        for k in _SLOT.findall(s)
        if k not in KINDS
    ]
    for text in (*w.statements, w.answer):
        if set(_SLOT.findall(text)) != {"x", "y"} or not text.endswith("."):
            found.append(f"a statement needs {{x}}, {{y}} and a full stop: {text!r}")
    for text in (*w.questions, *w.indirect):
        if _SLOT.findall(text) != ["x"]:
            found.append(f"a question has {{x}} once and no {{y}}: {text!r}")
    found += [
        f"a question ends in ? or .: {q!r}" for q in w.questions if not q.endswith(("?", "."))
    ]
    found += [
        f"no mark after an indirect question: {q!r}" for q in w.indirect if q.endswith(("?", "."))
    ]
    for texts in (w.statements, w.questions, w.indirect):
        if len(set(texts)) < len(texts):
            found.append(f"the same wording twice: {texts}")
    return found


@cache
def texts() -> tuple[str, ...]:
    """The files under `wordings/`, in the order of their names."""
    folder = files("qf.demo").joinpath("wordings")
    found = sorted((f.name, f) for f in folder.iterdir() if f.name.endswith(".txt"))
    return tuple(f.read_text(encoding="utf-8") for _, f in found)


@cache
def everyday() -> tuple[Worded, ...]:
    """Every relation of the files under `wordings/`, such that a question has one answer.

    Files were written apart from each other. Relations that answer a common question in the same
    words are one relation; of others, the one where the question stands further to the front (it is
    plainer there) keeps it.
    """
    told = _united([w for text in texts() for w in parse(text)])
    owner: dict[str, tuple[int, str]] = {}
    for w in told:
        for place, asked in enumerate((*w.questions, *w.indirect)):
            owner[sense(asked)] = min(owner.get(sense(asked), (place, w.name)), (place, w.name))
    own = [_owned(w, owner) for w in told]
    return tuple(w for w in own if len(w.questions) >= FEWEST and w.indirect)


def _owned(w: Worded, owner: dict[str, tuple[int, str]]) -> Worded:
    """The relation with the questions that it owns, and the others as shared."""
    own = tuple(q for q in w.questions if owner[sense(q)][1] == w.name)
    return replace(
        w,
        questions=own,
        indirect=tuple(i for i in w.indirect if owner[sense(i)][1] == w.name),
        shared=tuple(q for q in w.questions if q not in own),
        plainest="" if w.questions[0] in own else w.questions[0],
    )


FEWEST = 3
"""A relation that is left with fewer questions of its own is left out."""


def _united(told: Sequence[Worded]) -> list[Worded]:
    """The relations, those of one answer and a common question as one."""
    made: list[Worded] = []
    for w in told:
        twin = next((m for m in made if m.answer == w.answer and _common(m, w)), None)
        if twin is None:
            names = sum(m.name == w.name for m in made)
            made.append(replace(w, name=f"{w.name} ({names + 1})") if names else w)
        else:
            made[made.index(twin)] = Worded(
                twin.name,
                _both(twin.subjects, w.subjects),
                _both(twin.objects, w.objects),
                _both(twin.statements, w.statements),
                _both(twin.questions, w.questions),
                _both(twin.indirect, w.indirect),
                twin.answer,
            )
    return made


def _both(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(a + b))


def _common(a: Worded, b: Worded) -> bool:
    return bool({*map(sense, a.questions)} & {*map(sense, b.questions)})


def sense(asked: str) -> str:
    """A question without what makes no difference: case, marks, who or what or which.

    >>> sense("Which inn does {x} like?")
    'who inn does {x} like'
    """
    return re.sub(r"\b(which|whom|what|who)\b", "who", re.sub(r"[?.,]", "", asked.casefold()))
