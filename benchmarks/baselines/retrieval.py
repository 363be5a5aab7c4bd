"""Retrieval: the taught statement that matches a question best, by BM25, stands in the prompt.

BM25 is bm25s', in Lucene's form (Robertson & Zaragoza 2009; Kamphuis et al. 2020):

    Σ over the query's words  ln(1 + (N - n + ½) / (n + ½)) · f / (f + k₁ (1 - b + b · l / L))

N statements, n with the word, f times in this one of l words, L on the mean. No weights change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import bm25s

from benchmarks.baselines import Baseline, Taught
from qf.chat import Message
from qf.loading import Loaded

K1, B = 1.2, 0.75


def words(text: str) -> list[str]:
    """The words of a text, in lower case.

    >>> words("Who started Oxinnovate?")
    ['who', 'started', 'oxinnovate']
    """
    return re.findall(r"\w+", text.lower())


class Retrieval(Baseline):
    """Answers with the best-matching statement as instruction; closed-book where none matches."""

    def __init__(self, loaded: Loaded, layer: int, **options: Any) -> None:
        super().__init__(loaded, layer, **options)
        self.statements: list[str] = []
        self._index: Any = None

    def teach(self, facts: Sequence[Taught]) -> None:
        """Add the statements and index all anew."""
        self.statements += [fact.statement for fact in facts]
        if self.statements:
            self._index = bm25s.BM25(method="lucene", k1=K1, b=B)
            self._index.index([words(s) for s in self.statements], show_progress=False)

    def undo(self) -> None:
        """Forget the statements."""
        self.statements, self._index = [], None
        super().undo()

    def scores(self, query: str) -> list[float]:
        """Each statement's BM25 score."""
        known = [w for w in words(query) if self._index and w in self._index.vocab_dict]
        if not known:
            return [0.0] * len(self.statements)
        return self._index.get_scores(known).tolist()

    def best(self, query: str) -> str | None:
        """The statement of the highest score, the later of equal ones; None where all are 0."""
        scores = self.scores(query)
        if not scores or max(scores) <= 0:
            return None
        return self.statements[max(range(len(scores)), key=lambda i: (scores[i], i))]

    def conversation(
        self, query: str, instruction: str = "", earlier: Sequence[Mapping[str, str]] = ()
    ) -> list[Message]:
        """The query, with its statement behind all other prompts as `qf.lesson.pair` puts it."""
        told = "\n".join(filter(None, (instruction, self.best(query))))
        return super().conversation(query, told, earlier)
