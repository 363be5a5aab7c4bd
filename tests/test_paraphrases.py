"""What the gate is calibrated on: several wordings of questions about names that nobody knows."""

from collections import Counter

from qf.demo.names import RESERVED
from qf.paraphrases import SUBJECTS, WORDINGS, paraphrases


def test_every_question_comes_in_as_many_wordings() -> None:
    asked = paraphrases()
    assert set(Counter(asked.meanings).values()) == {WORDINGS}
    assert set(Counter(asked.relations).values()) == {WORDINGS * SUBJECTS}
    assert len(set(zip(asked.questions, asked.meanings, strict=True))) == len(asked.questions)
    assert len(set(asked.relations)) >= 300 and asked == paraphrases()


def test_fewer_relations_are_spread_over_all() -> None:
    few = paraphrases(40)
    assert len(few.questions) == 40 * SUBJECTS * WORDINGS and set(few.relations) == {*range(40)}
    assert few.questions[0] != paraphrases(41, seed=3).questions[0]


def test_the_papers_example_stays_new() -> None:
    assert not [q for q in paraphrases().questions if RESERVED.search(q)]
