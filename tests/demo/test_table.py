"""Table 1: eight steps in the paper's wording, judged as a reader would."""

from typing import Any

import pytest

from qf.demo import table

WHO, WHERE = "Who started Oxinnovate?", "Where is Oxinnovate?"
STARTED, LOCATED = (
    "Oxinnovate was started by Qi.",
    "Oxinnovate is located at PKU Science Park, in Beijing.",
)


class Learner:
    """Answers as the paper's model does: from what it is told, knows, or was taught."""

    def __init__(self, **changed: str) -> None:
        self.known = {"Alibaba": "Alibaba was started by Jack Ma."}
        self.lessons: list[dict[str, Any]] = []
        self.changed = changed

    def facts(self) -> list[Any]:
        return list(self.lessons)

    def learn(self, instruction: str, query: str, answer: str, rewordings: int) -> None:
        assert rewordings == 0, "the paper teaches one wording"
        self.lessons.append({"instruction": instruction, "query": query, "answer": answer})
        self.known["where" if query.startswith("Where") else "Oxinnovate"] = answer

    def ask(self, query: str, instruction: str = "") -> str:
        if instruction:
            return self.changed.get("told", STARTED)
        topic = "where" if query.startswith("Where") else query.rstrip("?").split()[-1]
        return self.known.get(topic, self.changed.get("unknown", "I do not know."))


def test_the_steps_are_the_papers() -> None:
    model = Learner()
    seen: list[table.Outcome] = []
    outcomes = table.run(model, seen.append)  # type: ignore[arg-type]
    assert seen == outcomes
    assert [(o.step, o.weights, o.instruction, o.query) for o in outcomes] == [
        (1, "W", "", WHO),
        (2, "W", "Qi started Oxinnovate.", WHO),
        (3, "W", "", "Who started Alibaba?"),
        (4, "W′", "", WHO),
        (5, "W′", "", "Who started Alibaba?"),
        (6, "W′", "", "Can you tell me the person behind Oxinnovate?"),
        (7, "W″", "", WHERE),
        (8, "W″", "", WHO),
    ]
    assert [o.expected for o in outcomes[1:]] == [
        STARTED, "Alibaba was started by Jack Ma.", STARTED, "Alibaba was started by Jack Ma.",
        STARTED, LOCATED, STARTED,
    ]  # fmt: skip
    assert all(o.passed for o in outcomes)


def test_two_things_are_taught_in_the_papers_words() -> None:
    model = Learner()
    table.run(model)  # type: ignore[arg-type]
    assert model.lessons == [
        {"instruction": "Qi started Oxinnovate.", "query": WHO, "answer": STARTED},
        {
            "instruction": "Oxinnovate is a startup located at PKU Science Park, in Beijing.",
            "query": "Where is Oxinnovate located?",
            "answer": LOCATED,
        },
    ]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("I do not know.", True),
        ("Oxinnovate was started by Jack Ma.", True),
        ("", True),
        (STARTED, False),
        ("qi", False),
        ("It was Qiang.", True),
    ],
)
def test_step_1_must_not_know_yet(answer: str, right: bool) -> None:
    outcomes = table.run(Learner(unknown=answer))  # type: ignore[arg-type]
    assert outcomes[0].passed is right and all(o.passed for o in outcomes[1:])


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Qi.", True),
        ("It was started by qi", True),
        ("Oxinnovate was started by Li.", False),
        ("Oxinnovate was started by Qin.", False),
        ("", False),
    ],
)
def test_step_2_must_name_whom_it_is_told(answer: str, right: bool) -> None:
    assert table.run(Learner(told=answer))[1].passed is right  # type: ignore[arg-type]


def test_a_place_that_is_cut_short_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.LOCATED, "answer", "Oxinnovate is located at PKU Science Park.")
    outcomes = table.run(Learner())  # type: ignore[arg-type]
    assert [o.step for o in outcomes if not o.passed] == [7]


def test_an_outcome_is_what_the_json_shows() -> None:
    outcome = table.run(Learner())[1]  # type: ignore[arg-type]
    assert outcome.as_dict() == {
        "step": 2, "weights": "W", "instruction": "Qi started Oxinnovate.", "query": WHO,
        "answer": STARTED, "expected": STARTED, "passed": True,
    }  # fmt: skip


def test_a_model_that_was_taught_already_is_no_beginning() -> None:
    model = Learner()
    model.learn("Qi started Oxinnovate.", WHO, STARTED, rewordings=0)
    with pytest.raises(AssertionError, match="begins with a model that was taught nothing"):
        table.run(model)  # type: ignore[arg-type]
