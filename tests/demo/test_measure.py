"""What counts as right when the embedded model is measured."""

import random

import pytest

from qf.demo.drawing import any_fact
from qf.demo.measure import SKILLS, Question, Taught, _strangers, tells, unseen_facts

WHO = Taught(
    "Qi started Oxinnovate.", "Who started Oxinnovate?", "Oxinnovate was started by Qi.", ()
)


@pytest.mark.parametrize("answer", ["Qi", "It is Qi.", "The founder of Oxinnovate is qi."])
def test_an_answer_in_any_form_is_right(answer: str) -> None:
    assert tells(WHO, answer)


@pytest.mark.parametrize("answer", ["", "I do not know.", "Oxinnovate was started.", "It is Qin."])
def test_an_answer_without_what_was_asked_for_is_not(answer: str) -> None:
    assert not tells(WHO, answer)


def test_every_word_that_was_asked_for_is_wanted() -> None:
    fact = Taught("Zet is in Port Calloway.", "Where is Zet?", "Zet is in Port Calloway.", ())
    assert tells(fact, "In Port Calloway.") and not tells(fact, "Zet is in Port Zet.")


def test_the_facts_by_hand_can_be_told_and_their_questions_do_not_tell() -> None:
    facts = unseen_facts()
    assert len(facts) >= 50 and len({f.statement for f in facts}) == len(facts)
    for fact in facts:
        assert tells(fact, fact.answer) and tells(fact, fact.statement), fact
        assert len(fact.rewordings) == 2
        for question in (fact.question, *fact.rewordings):
            assert not tells(fact, question), fact


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("What is the colour of Zorvan?", True),
        ("Which is the colour of Zorvan?", True),
        ("Name the colour of Zorvan.", True),
        ("Tell me the colour of Zorvan.", True),
        ("Where is the colour of Zorvan?", False),
        ("Name the colour of Zorva.", False),
        ("Name Zorvan.", False),
        ("", False),
    ],
)
def test_a_question_is_right_however_it_asks_for_the_same(written: str, right: bool) -> None:
    asked = Question("", "", ("What is the colour of Zorvan?",), question=True)
    assert asked.accepts(written) is right


def test_in_any_words_all_of_what_is_named_is_wanted() -> None:
    who = Question("", "", ("Zorvan is led by Ada Quist.",), named="Ada Quist")
    assert who.accepts("The head of Zorvan is ada quist") and not who.accepts("It is Ada.")
    assert not Question("", "", who.expected).accepts("The head of Zorvan is Ada Quist.")


def test_what_a_statement_names_may_be_asked_for_by_that_name() -> None:
    rng = random.Random(3)
    drawn = {q.query: q for q in (SKILLS["question writing"](rng) for _ in range(200))}
    asked = drawn["The file format of the Xaemz file is V."]
    assert asked.accepts("In what format is the Xaemz file saved?")
    assert asked.accepts("What is the file format of the Xaemz file?")
    assert not asked.accepts("What is the file format of the Xaemz?")


def test_strangers_are_not_among_the_taught() -> None:
    for seed in range(50):
        taught = any_fact(random.Random(seed)).x.casefold()
        assert taught not in _strangers(random.Random(seed), {taught}).query.casefold()
