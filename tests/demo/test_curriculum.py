"""The training conversations: never the paper's words, the same for the same seed, all skills."""

import random
import re

import pytest

from qf.demo.curriculum import (
    NOTED,
    REWORDED,
    UNKNOWN,
    Conversation,
    ask,
    conversation,
    questions,
    reworded,
)
from qf.demo.drawing import any_fact
from qf.demo.relations import KNOWN, known_facts

COUNT = 20_000
PAPERS = re.compile(r"(?i:oxinnovate|pku|\bqi\b)|Qi")  # Iraqi and aqueduct may occur


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    rng = random.Random(20250704)
    return [conversation(rng) for _ in range(COUNT)]


def whole(made: Conversation) -> str:
    return "\n".join([made.system, *(text for turn in made.turns for text in turn)])


def test_the_papers_words_never_occur(conversations: list[Conversation]) -> None:
    assert len(conversations) == COUNT
    assert not [made for made in conversations if PAPERS.search(whole(made))]


def test_the_same_seed_makes_the_same_conversations(conversations: list[Conversation]) -> None:
    rng = random.Random(20250704)
    assert [conversation(rng) for _ in range(300)] == conversations[:300]
    assert conversation(random.Random(1)) != conversation(random.Random(2))


def test_conversations_have_no_gaps(conversations: list[Conversation]) -> None:
    for made in conversations:
        assert made.turns and made.system == made.system.strip()
        for asked, answered in made.turns:
            assert asked.strip() == asked != "" and answered.strip() == answered != ""
            assert not re.search("[{}]", asked + answered)


def test_every_skill_is_practised(conversations: list[Conversation]) -> None:
    known = {fact.answer() for fact in known_facts()}
    turns = [(made, asked, said) for made in conversations for asked, said in made.turns]
    shares = {
        "reading": sum(
            said not in known | {UNKNOWN} and bool(made.system) for made, _, said in turns
        ),
        "knowing": sum(said in known for _, _, said in turns),
        "ignorance": sum(said == UNKNOWN for _, _, said in turns),
        "writing": sum(asked.startswith("Write a question") for _, asked, _ in turns),
        "rewording": sum(asked.startswith("Ask this question") for _, asked, _ in turns),
        "told in the chat": sum(said == NOTED for _, _, said in turns),
    }
    least = {"reading": 0.2, "knowing": 0.12, "ignorance": 0.08, "writing": 0.03,
             "rewording": 0.03, "told in the chat": 0.01}  # fmt: skip
    for skill, count in shares.items():
        assert count / len(turns) > least[skill], skill
    assert sum(len(made.turns) > 1 for made in conversations) > 0.3 * COUNT
    assert sum(not made.system for made in conversations) > 0.1 * COUNT


def test_every_true_fact_is_practised(conversations: list[Conversation]) -> None:
    said = {said for made in conversations for _, said in made.turns}
    missing = [fact for fact in known_facts() if fact.answer() not in said]
    assert len(missing) < 0.01 * len(known_facts())


def test_a_question_comes_in_many_wordings() -> None:
    fact = next(f for f in known_facts() if f.answer() == "Alibaba was started by Jack Ma.")
    rng = random.Random(3)
    asked = {ask(rng, fact) for _ in range(500)}
    assert len(asked) > 30 and "Who started Alibaba?" in asked
    assert [question for question in asked if question.startswith("Can you tell me ")]
    assert all("Alibaba" in question for question in asked)


def test_asking_for_other_words_again_and_again_visits_the_first_wordings() -> None:
    for relation in KNOWN.values():
        fact = any_fact(random.Random(4), relation)
        questions = fact.questions()
        seen, wording = [], 0
        for _ in questions[:REWORDED]:
            seen.append(reworded(fact, wording))
            wording = questions.index(seen[-1])
        assert set(seen) == set(questions[:REWORDED])
        assert all(reworded(fact, i) != question for i, question in enumerate(questions))


def test_ordinary_questions_are_about_what_is_known_and_more_about_what_is_not() -> None:
    asked = questions(2000, seed=3)
    assert asked == questions(2000, seed=3) != questions(2000, seed=4)
    assert not any(PAPERS.search(question) for question in asked)
    known = sum(any(f.x in q for f in known_facts()) for q in asked)
    assert 0.24 < known / len(asked) < 0.3
    assert len(set(asked)) > 0.9 * len(asked)
