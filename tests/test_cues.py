"""What a question is about, by its words."""

import pytest

from qf.cues import asked_for, cue_of, mentioned, rarity, words


def test_the_subject_is_what_all_wordings_share() -> None:
    cue = cue_of(["Who started Oxinnovate?", "Who is behind Oxinnovate?", "Oxinnovate, by whom?"])
    assert list(cue) == ["oxinnovate"]


def test_ordinary_words_weigh_little() -> None:
    cue = cue_of(["Where is the key of the Zorvan shed?", "Where do I find the Zorvan shed's key?"])
    assert max(cue, key=cue.__getitem__) == "zorvan" and "the" not in cue
    assert rarity("the") < rarity("key") < rarity("zorvan") == 1.0


def test_a_question_mentions_a_subject_by_its_name() -> None:
    cue = cue_of(["Who leads the Zorvan project?", "Who is in charge of the Zorvan project?"])
    assert mentioned(cue, words("Is it Ann who runs the ZORVAN project?")) > 0.9
    assert mentioned(cue, words("Who leads the Quillim project?")) < 0.6
    assert mentioned(cue, words("")) == 0.0


@pytest.mark.parametrize("wordings", [["Who?"], [":-)"], ["Who is it?", "Tell me."], ["的?"]])
def test_every_question_has_a_cue_that_it_mentions_itself(wordings: list[str]) -> None:
    assert mentioned(cue_of(wordings), words(wordings[0])) > 0.9


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("Who started Oxinnovate?", {"who"}),
        ("Can you tell me by whom it was started?", {"who"}),
        ("Whose company is it?", {"who"}),
        ("Hey, where's the bridge?", {"where"}),
        ("When and how did it open?", {"when", "how"}),
        ("In which year was it founded?", set()),
        ("Howard and Whoville: what are they?", set()),
    ],
)
def test_what_a_question_asks_for(question: str, wanted: set[str]) -> None:
    assert asked_for(question) == wanted
