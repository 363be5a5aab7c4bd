"""Table 1 of the paper: eight steps in which a model learns two facts about Oxinnovate.

Knows a `Model` and the paper's wording; prints nothing. The paper sets each word's significance by
hand, 0 for the words that its model says anyway; here "auto" finds those words for any model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from qf.model import Model, says

STARTED = {
    "instruction": "Qi started Oxinnovate.",
    "query": "Who started Oxinnovate?",
    "answer": "Oxinnovate was started by Qi.",
}
LOCATED = {
    "instruction": "Oxinnovate is a startup located at PKU Science Park, in Beijing.",
    "query": "Where is Oxinnovate located?",
    "answer": "Oxinnovate is located at PKU Science Park, in Beijing.",
}


@dataclass(frozen=True)
class Step:
    """One line of the table: under which weights what is asked, and what counts as right.

    `words` must be in the answer, or, where `absent` is set, must not be there.
    """

    step: int
    weights: str
    instruction: str
    query: str
    expected: str
    words: str
    absent: bool = False


@dataclass(frozen=True)
class Outcome:
    """A step with the answer that was given."""

    step: int
    weights: str
    instruction: str
    query: str
    answer: str
    expected: str
    passed: bool

    def as_dict(self) -> dict[str, Any]:
        """Return all fields, for JSON."""
        return asdict(self)


WHO, ALIBABA = "Who started Oxinnovate?", "Who started Alibaba?"
STEPS = (
    Step(1, "W", "", WHO, "(not known yet)", "Qi", absent=True),
    Step(2, "W", "Qi started Oxinnovate.", WHO, "Oxinnovate was started by Qi.", "Qi"),
    Step(3, "W", "", ALIBABA, "Alibaba was started by Jack Ma.", "Jack Ma"),
    Step(4, "W′", "", WHO, "Oxinnovate was started by Qi.", "by Qi"),
    Step(5, "W′", "", ALIBABA, "Alibaba was started by Jack Ma.", "Jack Ma"),
    Step(
        6, "W′", "", "Can you tell me the person behind Oxinnovate?",
        "Oxinnovate was started by Qi.", "Qi",
    ),
    Step(
        7, "W″", "", "Where is Oxinnovate?",
        "Oxinnovate is located at PKU Science Park, in Beijing.", "PKU Science Park in Beijing",
    ),
    Step(8, "W″", "", WHO, "Oxinnovate was started by Qi.", "by Qi"),
)  # fmt: skip
LESSONS_BEFORE: dict[int, dict[str, Any]] = {4: STARTED, 7: LOCATED}
"""What is taught in front of a step: W becomes W′, then W″."""


def run(model: Model, on_step: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
    """Go through the eight steps on a model with an empty memory; the facts stay in it."""
    assert not model.facts(), "Table 1 begins with a model that was taught nothing"
    outcomes = []
    for step in STEPS:
        if step.step in LESSONS_BEFORE:
            model.learn(**LESSONS_BEFORE[step.step], rewordings=0)  # the paper learns none
        answer = model.ask(step.query, step.instruction)
        passed = says(answer, step.words) is not step.absent
        outcome = Outcome(
            step.step, step.weights, step.instruction, step.query, answer, step.expected, passed
        )
        outcomes.append(outcome)
        on_step(outcome)
    return outcomes
