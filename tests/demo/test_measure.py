"""What counts as right when the embedded model is measured."""

import random

import pytest

from qf.demo.measure import Taught, _strangers, tells, unseen_facts
from qf.demo.relations import any_fact

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


def test_strangers_are_not_among_the_taught() -> None:
    for seed in range(50):
        taught = any_fact(random.Random(seed)).x.casefold()
        assert taught not in _strangers(random.Random(seed), {taught}).query.casefold()
