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
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from qf.demo.names import KINDS, made_up


@dataclass(frozen=True)
class Worded:
    """A relation as its block tells it."""

    name: str
    subjects: tuple[str, ...]
    objects: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    indirect: tuple[str, ...]
    answer: str


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
    """Every relation of the files under `wordings/`, in the order of their names."""
    return tuple(w for text in texts() for w in parse(text))
