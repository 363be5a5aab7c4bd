"""The world of the embedded model: enough true facts, each said and asked in several ways."""

import csv
from collections import Counter
from importlib.resources import files

import pytest

from qf.demo.names import KINDS, RESERVED
from qf.demo.relations import (
    KNOWN,
    Relation,
    WorldFact,
    known_facts,
)


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
