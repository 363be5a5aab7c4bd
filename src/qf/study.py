"""What a model writes for its own learning: the question to a statement, and its other wordings.

Knows a way to ask (`Ask`), no weights and no memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from qf.errors import LessonError
from qf.tasks import REWORD_QUESTION, WRITE_QUESTION

Ask = Callable[[Sequence[str], str], list[str]]
"""Answers to queries, each asked alone under an instruction ("" for none)."""


def write_question(ask: Ask, statement: str) -> str:
    """A question that `statement` answers, written by the model itself.

    Raises LessonError when what it writes is no question.
    """
    question = ask([WRITE_QUESTION.format(statement=statement)], "")[0].strip()
    if "?" not in question or "\n" in question:
        raise LessonError(
            f"The model did not find a question for {statement!r} (it wrote"
            f" {question[:80]!r}): give one with --query."
        )
    return question


def reword(ask: Ask, question: str) -> str:
    """The same question in other words, written by the model itself."""
    return ask([REWORD_QUESTION.format(question=question)], "")[0].strip()


def rewordings(ask: Ask, instruction: str, query: str, count: int) -> tuple[str, ...]:
    """Up to `count` other wordings of `query`, each asked for from the one before.

    Only those count that the model, when it is told the instruction, answers as it answers `query`
    itself: another answer shows that the wording asks for something else.
    """
    found: list[str] = []
    last = query
    for _ in range(count):
        last = reword(ask, last)
        if not last or "\n" in last or words(last) in [words(q) for q in (query, *found)]:
            break
        found.append(last)
    if not found:
        return ()
    answer, *answers = ask([query, *found], instruction)
    return tuple(q for q, a in zip(found, answers, strict=True) if words(a) == words(answer))


def words(text: str) -> list[str]:
    """Words in lower case; a text of signs alone (":-)", "€") is taken as it is."""
    return re.findall(r"\w+", text.casefold()) or text.split()
