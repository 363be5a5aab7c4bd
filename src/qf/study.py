"""What a model writes for its own learning: the question to a statement, and its other wordings.

Knows ways to ask (`Ask`) and to have written (`Draft`), no weights and no memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from qf.cues import words
from qf.errors import LessonError
from qf.tasks import REWORD_QUESTION, WRITE_QUESTION

Ask = Callable[[Sequence[str], Sequence[str]], list[str]]
"""Answers to queries, each asked alone under an instruction of its own ("" for none)."""
Draft = Callable[[Sequence[str]], list[list[str]]]
"""Several texts for each task, the most probable first, at least one."""
DRAFTS = 4
"""So many of them: the first that is a question, or says something new, is taken."""


def write_question(draft: Draft, statement: str) -> str:
    """A question that `statement` answers, written by the model itself: the first that is one.

    Raises LessonError when what it writes is no question, or `statement` is one itself.
    """
    if _is_question(statement):
        raise LessonError(
            f"{statement!r} is a question and states nothing that could be learned: write what is"
            " the case, or give the question with --query."
        )
    written = [text.strip() for text in draft([WRITE_QUESTION.format(statement=statement)])[0]]
    for question in written:
        if "?" in question and "\n" not in question:
            return question
    raise LessonError(
        f"The model did not find a question for {statement!r} (it wrote"
        f" {written[0][:80]!r}): give one with --query."
    )


def sentences(text: str) -> list[str]:
    """The statements of a text: its sentences, each line by itself; questions are left out.

    >>> sentences("Dr. Ada Quist met J. Orr. Who? It is 2.5 m long")
    ['Dr. Ada Quist met J. Orr.', 'It is 2.5 m long.']
    """
    found = []
    for line in text.splitlines():
        for part in _END.split(line.strip().lstrip("-*•# \t")):
            part = " ".join(part.split())
            if (_LETTER.search(part) or len(words(part)) > 1) and not _is_question(part):
                end = part.rstrip("\"')]")[-1:]
                found.append(part if end in (".", "!") else f"{part}.")
    return list(dict.fromkeys(found))


def check_statement(sentence: str) -> None:
    """Raises LessonError for a sentence of a text, as `sentences` gives it, that is one word."""
    if len(words(sentence)) < 2:
        raise LessonError(f"{sentence!r} is a single word and states nothing: write a sentence.")


def _is_question(sentence: str) -> bool:
    """Whether it asks; a statement may end in a question that it quotes."""
    sentence = sentence.strip()
    quoted = sentence[:1] in _OPEN and sentence[-1:] == _OPEN[sentence[:1]]
    inner = sentence[1:-1] if quoted else sentence
    return inner.strip().endswith("?")


_LETTER = re.compile(r"[^\W\d_]")  # a text's "1." and "--" are no sentences
_OPEN = {'"': '"', "'": "'", "(": ")", "[": "]"}


# The end of a sentence is no abbreviation and no initial: "Dr. Quist", "J. Orr", "e.g. tea".
_END = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))(?<!\b[A-Z]\.)(?<!\b(?:Dr|Mr|Ms|St)\.)(?<!\bMrs\.)"
    r"(?<!\be\.g\.)(?<!\bi\.e\.)\s+(?=[A-Z0-9\"'(\[-])"
)


def reword(draft: Draft, question: str) -> str:
    """The same question in other words, written by the model itself; as it is where it has none."""
    return _reworded(draft, [question], [[question]])[0] or question


def rewordings(
    draft: Draft, ask: Ask, instructions: Sequence[str], queries: Sequence[str], count: int
) -> list[tuple[str, ...]]:
    """Up to `count` other wordings of each query, each asked for from the one before.

    Only those count that the model, when it is told the query's instruction, answers as it answers
    the query itself: another answer shows that the wording asks for something else.
    """
    found: list[list[str]] = [[q] for q in queries]
    writing = list(range(len(queries))) if count else []
    for _ in range(count):
        new = _reworded(draft, [found[i][-1] for i in writing], [found[i] for i in writing])
        for i, text in zip(writing, new, strict=True):
            if text:
                found[i].append(text)
        writing = [i for i, text in zip(writing, new, strict=True) if text]
    asked = [(q, i) for i, wordings in enumerate(found) if len(wordings) > 1 for q in wordings]
    if not asked:
        return [()] * len(queries)
    answers = iter(ask([q for q, _ in asked], [instructions[i] for _, i in asked]))
    chosen: list[tuple[str, ...]] = []
    for wordings in found:
        said = [words(next(answers)) for _ in wordings] if len(wordings) > 1 else [[]]
        same = [q for q, a in zip(wordings[1:], said[1:], strict=True) if a == said[0]]
        chosen.append(tuple(same))
    return chosen


def _reworded(
    draft: Draft, questions: Sequence[str], known: Sequence[Sequence[str]]
) -> list[str | None]:
    """Of each question the first wording that is none of those that are known, if there is one."""
    if not questions:
        return []
    chosen: list[str | None] = []
    tasks = [REWORD_QUESTION.format(question=q) for q in questions]
    for texts, wordings in zip(draft(tasks), known, strict=True):
        said = [words(q) for q in wordings]
        new = (t.strip() for t in texts)
        chosen.append(next((t for t in new if t and "\n" not in t and words(t) not in said), None))
    return chosen
