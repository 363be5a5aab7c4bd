"""The relations of everyday life: read as they are written, refused where they are not whole."""

import random

import pytest

from qf.demo import worded
from qf.demo.names import RESERVED
from qf.demo.worded import everyday, fill, parse, sense

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
    assert len(relations) >= 600
    assert min(len(r.questions) for r in relations) >= 3
    assert sum(len(r.questions) for r in relations) >= 10 * len(relations)
    assert min(len(r.statements) for r in relations) >= 3
    for relation in relations:
        texts = (*relation.statements, *relation.questions, *relation.indirect, relation.answer)
        assert not [t for t in texts if RESERVED.search(t)]


def test_a_question_has_one_answer() -> None:
    """Else nobody could tell which of two is wanted, and training on both teaches neither."""
    owner: dict[str, str] = {}
    for relation in everyday():
        for asked in {sense(a) for a in (*relation.questions, *relation.indirect)}:
            assert owner.setdefault(asked, relation.name) == relation.name, asked


def test_relations_of_one_answer_and_a_common_question_are_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twin = BLOCK.replace("# ", "# again ", 1).replace("Say who leads {x}.", "Who rules {x}?")
    other = BLOCK.replace("# ", "# not ", 1).replace("A: {x} is led by", "A: {x} is under")
    more = other.replace("Q: ", "Q: Who heads {x}? | Who runs {x}? | Name the head of {x}. | ")
    more = more.replace("I: ", "I: who heads {x} | ")
    monkeypatch.setattr(worded, "texts", lambda: (f"{BLOCK}\n\n{twin}\n\n{more}",))
    worded.everyday.cache_clear()
    try:
        first, second = worded.everyday()
    finally:
        monkeypatch.undo()
        worded.everyday.cache_clear()
    assert first.questions == ("Who leads {x}?", "Say who leads {x}.", "Who rules {x}?")
    assert second.questions == ("Who heads {x}?", "Who runs {x}?", "Name the head of {x}.")
    assert second.indirect == ("who heads {x}",)
    assert second.shared == ("Who leads {x}?", "Say who leads {x}.")
    assert (first.plainest, second.plainest) == ("", "")


def test_kinds_become_names() -> None:
    rng = random.Random(0)
    assert "{" not in fill(rng, "the {word} {english} of {person}")
    assert fill(rng, "my dog") == "my dog"
