"""The relations of everyday life: read as they are written, refused where they are not whole."""

import random

import pytest

from qf.demo.names import RESERVED
from qf.demo.worded import everyday, fill, parse

BLOCK = """# the leader of a project
x: the {word} project / Project {word}
y: {person}
S: {y} leads {x}. | {x} is led by {y}.
Q: Who leads {x}? | Say who leads {x}.
I: who leads {x}
A: {x} is led by {y}."""


def test_a_block_is_a_relation() -> None:
    (one, two) = parse(f"{BLOCK}\n\n\n{BLOCK}\n")
    assert one == two and one.name == "the leader of a project"
    assert one.subjects == ("the {word} project", "Project {word}")
    assert one.questions == ("Who leads {x}?", "Say who leads {x}.")


@pytest.mark.parametrize(
    ("right", "wrong", "why"),
    [
        ("y: {person}", "y: {persona}", "unknown kind"),
        ("{y} leads {x}.", "{y} leads.", "a statement needs"),
        ("Who leads {x}?", "Who leads {x}", "ends in"),
        ("Who leads {x}?", "Does {y} lead {x}?", "has {x} once"),
        ("I: who leads {x}", "I: who leads {x}?", "no mark"),
        ("Say who leads {x}.", "Who leads {x}?", "twice"),
        ("A: ", "B: ", "not a relation"),
    ],
)
def test_what_is_wrong_is_said(right: str, wrong: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(BLOCK.replace(right, wrong, 1))


def test_there_are_hundreds_in_many_wordings() -> None:
    relations = everyday()
    assert len(relations) >= 350
    assert min(len(r.questions) for r in relations) >= 6
    assert min(len(r.statements) for r in relations) >= 3
    for relation in relations:
        texts = (*relation.statements, *relation.questions, *relation.indirect, relation.answer)
        assert not [t for t in texts if RESERVED.search(t)]


def test_kinds_become_names() -> None:
    rng = random.Random(0)
    assert "{" not in fill(rng, "the {word} {english} of {person}")
    assert fill(rng, "my dog") == "my dog"
