"""The words by which a question says what it is about: a fact comes to mind when it is mentioned.

What all wordings of a question have in common is, but for ordinary words, the name of its subject.
Knows text only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

from qf.demo.worded import everyday

Cue = dict[str, float]
"""Words (in lower case) and their weights, which add up to 1."""


NAMES = 3
"""So many times a word counts that is written like a name."""
COMMON = 0.03
"""Words with less than this part of a cue's weight are left out of it."""


def words(text: str) -> list[str]:
    """Words in lower case; a text of signs alone (":-)", "€") is taken as it is.

    >>> words("Who's Qi?")
    ['who', 's', 'qi']
    """
    return re.findall(r"\w+", text.casefold()) or text.split()


def cue_of(wordings: Sequence[str]) -> Cue:
    """What is common to the wordings of one question; names and rare words weigh most.

    >>> cue_of(["Who started Oxinnovate?", "Who is the founder of Oxinnovate?"])
    {'oxinnovate': 1.0}
    """
    common = set(words(wordings[0])).intersection(*(words(w) for w in wordings[1:]))
    named = {name for wording in wordings for name in _names(wording)}
    weights = {
        w: rarity(w) * (NAMES if w in named else 1)
        for w in words(wordings[0])
        if w in common or not common
    }
    total = sum(weights.values())
    return {w: weight / total for w, weight in weights.items() if weight > COMMON * total}


def _names(text: str) -> set[str]:
    """Words that are written like names: with a capital within the text, or with digits."""
    written = re.findall(r"\w+", text)
    capitals = {w for w in written[1:] if w[0].isupper()}
    return {w.casefold() for w in capitals | {w for w in written if any(map(str.isdigit, w))}}


def mentioned(cue: Cue, said: Iterable[str]) -> float:
    """How much of a cue is among the words that were said: from 0 to 1."""
    return sum(cue.get(w, 0.0) for w in set(said))


_ASKED_FOR = {
    "who": "who", "whom": "who", "whose": "who", "where": "where", "when": "when", "how": "how",
}  # fmt: skip


def asked_for(question: str) -> set[str]:
    """Whether a question says that it asks for a person, a place, a time or a manner or measure.

    Empty where it does not: "what" and "which" may ask for anything.

    >>> asked_for("Can you tell me by whom it was founded?"), asked_for("What is its name?")
    ({'who'}, set())
    """
    return {_ASKED_FOR[w] for w in words(question) if w in _ASKED_FOR}


def rarity(word: str) -> float:
    """1 for a word that ordinary questions do not hold, less the more of them hold it."""
    return float((1 + _ordinary()[word]) ** -0.8)


@cache
def _ordinary() -> Counter[str]:
    """In how many everyday questions, or relations of everyday life, each word occurs."""
    lines = files("qf.method").joinpath("everyday.txt").read_text(encoding="utf-8").splitlines()
    relations = [" ".join(w.questions).replace("{x}", "") for w in everyday()]
    return Counter(w for text in (*lines, *relations) for w in set(words(text)))
