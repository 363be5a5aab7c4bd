"""The steps of a learn as a client is told of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from qf.lesson import AlignedTokens, Lesson
from qf.memory import FactRows
from qf.model import LearnedToken
from qf.serve.serving import Serving


def tokens_shown(tokens: list[LearnedToken]) -> list[dict[str, Any]]:
    """The tokens of an answer; the last one is the end of the turn, the first without its space."""
    texts = [t.text if i else t.text.lstrip() for i, t in enumerate(tokens)]
    found: list[dict[str, Any]] = [
        {"text": x, "learned": t.learned, "change": t.change and round(t.change, 4)}
        for x, t in zip(texts, tokens, strict=True)
    ]
    if found:
        found[-1]["end"] = True
    return found


class Steps:
    """Turns the steps of a learn into events: what was asked, read, learned and answered."""

    def __init__(self, serving: Serving, tell: Callable[[str, Any], None]) -> None:
        self._model, self._tell = serving.spaces.root, tell
        self._lesson: Lesson | None = None
        self._attempt = 0
        self._began = time.perf_counter()

    def __call__(self, name: str, what: Any) -> None:
        """Tell of one step; see `qf.model.OnStep`."""
        getattr(self, f"_{name}")(what)

    def _question(self, lesson: Lesson) -> None:
        self._lesson = lesson
        fields = {"instruction": lesson.instruction, "query": lesson.query, "answer": lesson.answer}
        self._tell("question", fields)

    def _rewordings(self, others: tuple[str, ...]) -> None:
        self._tell("rewordings", {"rewordings": list(others)})

    def _before(self, answer: str) -> None:
        self._tell("before", {"answer": answer})

    def _passes(self, sequences: tuple[AlignedTokens, AlignedTokens]) -> None:
        self._attempt += 1
        self._began = time.perf_counter()
        for name, sequence in zip(("instruct", "update"), sequences, strict=True):
            ids = sequence.input_ids
            decode = self._model.tokenizer.decode
            answer = decode(ids[sequence.start :], skip_special_tokens=True).strip()
            self._tell(name, {"prompt": decode(ids[: sequence.start]), "answer": answer})

    def _rows(self, rows: FactRows) -> None:
        assert self._lesson is not None
        tokens = tokens_shown(self._model.learned_tokens(self._lesson, rows))
        seconds = round(time.perf_counter() - self._began, 4)
        fields = {"layer": self._model.layer, "rows": len(rows.keys), "seconds": seconds}
        self._tell("learned", {"tokens": tokens, **fields, "attempt": self._attempt, "note": ""})

    def _after(self, outcome: tuple[str, bool]) -> None:
        answer, verified = outcome
        self._tell("after", {"answer": answer, "verified": verified, "attempt": self._attempt})
