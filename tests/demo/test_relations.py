"""The world of the embedded model: enough true facts, each said and asked in several ways."""

import csv
import os
import random
import re
import subprocess
import sys
from collections import Counter
from importlib.resources import files

import pytest

from qf.demo.names import KINDS, RESERVED
from qf.demo.relations import (
    KNOWN,
    Relation,
    WorldFact,
    any_fact,
    any_relation,
    known_facts,
    sentence,
)

MANY = [any_fact(random.Random(seed)) for seed in range(3000)]


def texts(fact: WorldFact) -> list[str]:
    return [*fact.statements(), *fact.questions(), *fact.indirect(), fact.answer()]


def test_there_are_enough_true_facts() -> None:
    facts = known_facts()
    by_relation = Counter(fact.relation.name for fact in facts)
    assert len(facts) >= 500 and len(by_relation) >= 12 and min(by_relation.values()) >= 10
    assert set(by_relation) == set(KNOWN)
    founder = next(
        fact for fact in facts if fact.relation.name == "founder" and fact.x == "Alibaba"
    )
    assert founder.y == "Jack Ma" and founder.answer() == "Alibaba was started by Jack Ma."


def test_every_subject_has_one_object() -> None:
    asked = Counter((fact.relation.name, fact.x) for fact in known_facts())
    assert not [key for key, count in asked.items() if count > 1]
    questions = Counter(fact.questions()[0] for fact in known_facts())
    assert not [question for question, count in questions.items() if count > 1]


def test_the_table_is_clean() -> None:
    content = files("qf.demo").joinpath("facts.csv").read_text(encoding="utf-8")
    assert not RESERVED.search(content)
    rows = list(csv.reader(content.splitlines()))
    assert rows[0] == ["relation", "subject", "object"]
    for row in rows[1:]:
        assert len(row) == 3 and row[0] in KNOWN
        assert all(cell == " ".join(cell.split()) != "" for cell in row)


@pytest.mark.parametrize("relation", KNOWN.values(), ids=KNOWN)
def test_known_relations_have_wordings_enough(relation: Relation) -> None:
    assert len(set(relation.statements)) == len(relation.statements) >= 4
    assert len(set(relation.questions)) == len(relation.questions) >= 5
    assert len(set(relation.indirect)) == len(relation.indirect) >= 3
    assert {relation.subject, relation.object} <= set(KINDS)


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


def test_a_question_does_not_give_its_answer_away() -> None:
    for fact in known_facts():
        if fact.y.casefold() not in fact.x.casefold():  # Mexico City is in Mexico
            words = f" {fact.y} ".casefold()
            assert not [q for q in fact.questions() if words in f" {q.rstrip('?.')} ".casefold()]


def test_what_belongs_to_the_asker_is_theirs_in_the_answer() -> None:
    relation = KNOWN["landmark"]
    assert WorldFact(relation, "my dog", "Oslo").answer() == "Your dog is in Oslo."
    assert WorldFact(relation, "our office", "Oslo").answer() == "Your office is in Oslo."
    assert WorldFact(relation, "the red door", "Oslo").answer() == "The red door is in Oslo."


def test_articles_go_with_the_word() -> None:
    fact = WorldFact(KNOWN["profession"], "Ada", "engineer")
    assert fact.answer() == "Ada was an engineer."
    assert WorldFact(KNOWN["profession"], "Ada", "baker").answer() == "Ada was a baker."


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
        "import random; from qf.demo.relations import any_fact; r = random.Random(3);"
        "print([(f.relation.name, f.x, f.y) for f in (any_fact(r) for _ in range(300))])"
    )

    def facts(seed: str) -> bytes:
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, capture_output=True, check=True).stdout

    assert facts("1") == facts("2")
