"""What a model writes for its own learning: only a question that it answers alike counts."""

from collections.abc import Sequence

import pytest

from qf.errors import LessonError
from qf.study import Ask, Draft, reword, rewordings, sentences, write_question
from qf.tasks import REWORD_QUESTION, WRITE_QUESTION

TOLD = "Qi started Oxinnovate."
WHO = "Who started Oxinnovate?"
RIGHT = "Oxinnovate was started by Qi."


def scripted(written: dict[str, str | list[str]]) -> Draft:
    """A model that rewords as `written` says, in one draft or in several."""

    def draft(tasks: Sequence[str]) -> list[list[str]]:
        found = [written[t.removeprefix(REWORD_QUESTION.format(question=""))] for t in tasks]
        return [[text] if isinstance(text, str) else text for text in found]

    return draft


def told(answers: dict[str, str]) -> Ask:
    """A model that, when it is told something, answers as `answers` says."""

    def ask(queries: Sequence[str], instructions: Sequence[str]) -> list[str]:
        assert len(queries) == len(instructions) and all(instructions)
        return [answers.get(q, RIGHT) for q in queries]

    return ask


def test_each_wording_is_asked_for_from_the_one_before() -> None:
    draft = scripted({WHO: "Who founded it?", "Who founded it?": "By whom was it founded?"})
    both = ("Who founded it?", "By whom was it founded?")
    assert [rewordings(draft, told({}), [TOLD], [WHO], n)[0] for n in (2, 1, 0)] == [
        both,
        both[:1],
        (),
    ]


def test_a_wording_that_is_answered_otherwise_asks_for_something_else() -> None:
    draft = scripted({WHO: "Where is it?", "Where is it?": "Who founded it?"})
    ask = told({"Where is it?": "I do not know.", "Who founded it?": RIGHT.lower()})
    assert rewordings(draft, ask, [TOLD], [WHO], 2)[0] == ("Who founded it?",)


def test_questions_that_are_reworded_together_do_not_mix() -> None:
    where, place = "Where is it?", "In which place is it?"
    draft = scripted({WHO: "Who founded it?", "Who founded it?": WHO, where: place, place: ""})
    assert rewordings(draft, told({}), [TOLD, "It is in Rome."], [WHO, where], 2) == [
        ("Who founded it?",),
        (place,),
    ]
    assert rewordings(draft, told({}), [], [], 2) == []


@pytest.mark.parametrize("again", ["", WHO, WHO.upper(), "Who\nfounded it?"])
def test_a_draft_that_says_nothing_new_is_passed_over(again: str) -> None:
    draft = scripted(
        {WHO: [again, " Who founded it? ", "Who made it?"], "Who founded it?": [again]}
    )
    assert rewordings(draft, told({}), [TOLD], [WHO], 3) == [("Who founded it?",)]
    assert rewordings(scripted({WHO: again}), told({}), [TOLD], [WHO], 3) == [()]
    assert reword(draft, WHO) == "Who founded it?"
    assert reword(scripted({WHO: again}), WHO) == WHO


def test_a_question_is_written_or_the_remedy_told() -> None:
    task = WRITE_QUESTION.format(statement=TOLD)
    drafts = ["No idea.", "Who?\nAnd what?", f" {WHO}\n", "What?"]
    assert write_question(lambda tasks: [drafts if tasks == [task] else [""]], TOLD) == WHO
    for nothing in ("", "No idea.", "Who?\nAnd what?"):
        with pytest.raises(LessonError, match="--query"):
            write_question(lambda _, nothing=nothing: [[nothing, ""]], TOLD)


@pytest.mark.parametrize("asked", ["Is it?", ' "Who made the lamp?" ', "(Where is Oslo?)\n"])
def test_a_question_is_no_statement(asked: str) -> None:
    def draft(_: Sequence[str]) -> list[list[str]]:
        raise AssertionError("the model is not asked")

    with pytest.raises(LessonError, match="is a question and states nothing"):
        write_question(draft, asked)


@pytest.mark.parametrize(
    "stated", ['Qi wrote "What is life?"', "The motto of Zorvan is 'Quo vadis?'", "Is it? It is."]
)
def test_a_statement_may_quote_a_question(stated: str) -> None:
    assert write_question(lambda _: [[WHO]], stated) == WHO


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        (
            "Qi started Oxinnovate. It is in Beijing.",
            ["Qi started Oxinnovate.", "It is in Beijing."],
        ),
        ("Dr. Ada Quist met J. Orr in St. Gallen.", ["Dr. Ada Quist met J. Orr in St. Gallen."]),
        ("The rod is 2.5 m long. Bo is 7", ["The rod is 2.5 m long.", "Bo is 7."]),
        ("- one fact\n- another fact\n\n# a title", ["one fact.", "another fact.", "a title."]),
        ("Who? Is it so? Bo plays chess!", ["Bo plays chess!"]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("Bo is 7. Bo is 7.", ["Bo is 7."]),
        ("", []),
        ("...\n--\n?", []),
        ("Zzz. 1. Bo is 7\n# Notes", ["Zzz.", "Bo is 7.", "Notes."]),
    ],
)
def test_a_text_is_cut_into_statements(text: str, stated: list[str]) -> None:
    assert sentences(text) == stated
