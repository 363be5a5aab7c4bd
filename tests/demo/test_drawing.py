"""Facts that are drawn: each said and asked as what it is, and the same for the same seed."""

import os
import random
import re
import subprocess
import sys

from qf.demo.drawing import any_fact, any_relation
from qf.demo.names import RESERVED
from qf.demo.relations import KNOWN, WorldFact, known_facts, sentence

MANY = [any_fact(random.Random(seed)) for seed in range(3000)]


def texts(fact: WorldFact) -> list[str]:
    return [*fact.statements(), *fact.questions(), *fact.indirect(), fact.answer()]


def test_the_same_seed_makes_the_same_fact() -> None:
    assert [any_fact(random.Random(seed)) for seed in range(200)] == MANY[:200]
    assert any_relation(random.Random(5)) == any_relation(random.Random(5))


def test_made_up_facts_hold_nothing_reserved_and_hardly_repeat() -> None:
    assert not [fact for fact in MANY if RESERVED.search("".join(texts(fact)))]
    assert len({(fact.x, fact.y) for fact in MANY}) > 2900
    assert len({fact.relation.name for fact in MANY}) >= len(KNOWN) + 8
    assert len({fact.relation for fact in MANY}) > 1000


def test_a_given_relation_is_kept() -> None:
    fact = any_fact(random.Random(1), KNOWN["capital"])
    assert fact.relation is KNOWN["capital"]


def test_a_statement_shows_the_case_of_its_names() -> None:
    hidden = [
        (fact, statement)
        for fact in MANY
        for statement in fact.statements()
        for name in (fact.x, fact.y)
        if name[:1].islower() and not name.startswith(("the ", "my ", "our "))
        if statement.startswith(sentence(name)) and len(fact.statements()) > 1
    ]
    assert [f for f, _ in hidden if len(f.statements()) < len(f.relation.statements)] == []


def test_the_question_to_write_is_one_that_is_asked_or_about_the_doer() -> None:
    for fact in MANY:
        first, *others = fact.written()
        asked = {*fact.asked(), *fact.rewordings()}
        assert first in asked or first.startswith("Who ")
        assert set(fact.questions()) <= {first, *others} <= {*fact.asked(), *fact.written()}
    doer = next(f for f in MANY if f.relation.name == "doer")
    assert doer.written()[0].startswith("Who ") and doer.y in doer.written()[0]


def test_wordings_that_cannot_be_told_are_only_asked() -> None:
    placed = next(f for f in MANY if f.relation.name == "placed")
    bare = next(q for q in placed.asked() if q not in placed.questions())
    assert bare.startswith("Where ") and placed.answer().split()[-1] not in bare


def test_no_two_relations_answer_one_question_differently() -> None:
    known = {
        (question, fact.x): fact.answer()
        for relation in KNOWN.values()
        for fact in [WorldFact(relation, "Xann", "Yim")]
        for question in fact.questions()
    }
    for fact in MANY:
        if fact.relation.name not in (*KNOWN, "placed"):
            twin = WorldFact(fact.relation, "Xann", "Yim")
            for question in twin.questions():
                assert known.get((question, "Xann"), twin.answer()) == twin.answer(), question


def test_a_seed_gives_the_same_facts_in_every_process() -> None:
    """Sets of texts are iterated in an order of each process's own."""
    program = (
        "import random; from qf.demo.drawing import any_fact; r = random.Random(3);"
        "print([(f.relation.name, f.x, f.y) for f in (any_fact(r) for _ in range(300))])"
    )

    def facts(seed: str) -> bytes:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, capture_output=True, check=True).stdout

    assert facts("1") == facts("2")


def test_every_wording_names_what_it_is_about() -> None:
    for fact in [*MANY, *known_facts()]:
        x, y = fact.x.casefold(), fact.y.casefold()
        for statement in fact.statements():
            assert x in statement.casefold() and y in statement.casefold()
            assert statement.endswith(".") and statement == sentence(statement)
        for question in fact.questions():
            assert x in question.casefold() and question[-1] in "?."
            assert question == sentence(question)
        assert all(x in indirect.casefold() for indirect in fact.indirect())
        assert y in fact.answer().casefold() and fact.answer().endswith(".")
        assert not re.search(r"[{}|]|  ", "".join(texts(fact)))
