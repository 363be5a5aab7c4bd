"""What a question is about, by its words."""

import pytest

from qf.cues import asked_for, cue_of, names, rarity


def test_the_subject_is_what_all_wordings_share() -> None:
    cue = cue_of(["Who started Oxinnovate?", "Who is behind Oxinnovate?", "Oxinnovate, by whom?"])
    assert list(cue.weights) == ["oxinnovate"] and cue.names == {"oxinnovate"}


def test_ordinary_words_weigh_little() -> None:
    cue = cue_of(["Where is the key of the Zorvan shed?", "Where do I find the Zorvan shed's key?"])
    assert max(cue.weights, key=cue.weights.__getitem__) == "zorvan" and "the" not in cue.weights
    assert rarity("the") < rarity("key") < rarity("zorvan") == 1.0


def test_a_question_mentions_a_subject_by_its_name() -> None:
    cue = cue_of(["Who leads the Zorvan project?", "Who is in charge of the Zorvan project?"])
    assert cue.mentioned("Is it Ann who runs the ZORVAN project?") > 0.9
    assert cue.mentioned("who leads the zorvan project") > 0.9
    assert cue.mentioned("who leads the quillim project?") < 0.6
    assert cue.mentioned("") == 0.0


@pytest.mark.parametrize(
    ("asked", "another"),
    [
        ("What is the PIN of my bank card?", "What is the PIN of Ada Quist's bank card?"),
        ("What colour does my daughter love?", "Which colour does Jorge's daughter love best?"),
        ("Who is behind the Morning Motors?", "Who is behind the Solar Motors?"),
        ("When is the final?", "When is the Zorvan final?"),
        ("Who rents room 12?", "Who rents room 14?"),
    ],
)
def test_whatever_has_another_name_is_something_else(asked: str, another: str) -> None:
    cue = cue_of([asked])
    assert cue.mentioned(asked) > 0.9 and cue.mentioned(another) == 0.0


def test_whose_a_thing_is_says_little_of_what_it_is() -> None:
    cue = cue_of(["What is the name of our boss?", "What is our boss called?"])
    assert cue.weights["boss"] > 1.5 * cue.weights["our"]
    assert cue.mentioned("What is our painter called?") < 0.6


def test_what_was_told_narrows_the_cue() -> None:
    question, told = "By whom was my drill borrowed?", ["My drill was lent to Ann."]
    assert cue_of([question], told).mentioned("Who has my drill on loan?") > 0.9
    assert cue_of([question]).mentioned("Who has my drill on loan?") < 0.9
    # a text that leaves a name out does not count, nor one that has nothing in common
    for text in ("It is in the shed.", "Yes."):
        assert cue_of(["Where is the Zorvan shed's key?"], [text]).names == {"zorvan"}


def test_names_are_written_like_names() -> None:
    assert names("Tell me: Who met Dr Quist in room 12? I did. So did he.") == {"dr", "quist", "12"}
    assert names("oxinnovate") == names("") == set()


@pytest.mark.parametrize("wordings", [["Who?"], [":-)"], ["Who is it?", "Tell me."], ["的?"]])
def test_every_question_has_a_cue_that_it_mentions_itself(wordings: list[str]) -> None:
    assert cue_of(wordings).mentioned(wordings[0]) > 0.9


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("Who started Oxinnovate?", {"who"}),
        ("Can you tell me by whom it was started?", {"who"}),
        ("Whose company is it?", {"who"}),
        ("Hey, where's the bridge?", {"where"}),
        ("When and how did it open?", {"when", "how"}),
        ("How's her father called?", set()),
        ("In which year was it founded?", set()),
        ("Howard and Whoville: what are they?", set()),
    ],
)
def test_what_a_question_asks_for(question: str, wanted: set[str]) -> None:
    assert asked_for(question) == wanted
