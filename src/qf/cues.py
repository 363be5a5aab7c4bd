"""The words by which a question says what it is about: a fact comes to mind when it is mentioned.

What all wordings of a question have in common is, but for ordinary words, the name of its subject.
Knows text only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from qf.demo.worded import everyday

NAMES = 3
"""So many times a word counts that is written like a name."""
WHOSE = 0.2
"""So much counts a word that only tells whose a thing is: our, your, their."""
ORDINARY = 0.1
"""A word with no more rarity than this says nothing of a subject."""
COMMON = 0.03
"""Words with less than this part of a cue's weight are left out of it."""


def words(text: str) -> list[str]:
    """Words in lower case; a text of signs alone (":-)", "€") is taken as it is.

    >>> words("Who's Qi?")
    ['who', 's', 'qi']
    """
    return re.findall(r"\w+", text.casefold()) or text.split()


@dataclass(frozen=True)
class Cue:
    """What a fact is mentioned by, all in lower case.

    `weights` of the words that its wordings have in common add up to 1; `names` are those of them
    that are written like names, `own` all words of the wordings.
    """

    weights: dict[str, float]
    names: frozenset[str]
    own: frozenset[str]

    def mentioned(self, question: str) -> float:
        """How much of the cue a question holds, from 0 to 1; 0 where it names something else.

        "Ada's bank card" is not "my bank card", nor "Solar Motors" the "Morning Motors". Where the
        fact's own names are all there, others beside them are no harm.

        >>> cue_of(["What is the PIN of my bank card?"]).mentioned("The PIN of Ada's bank card?")
        0.0
        """
        foreign = bool(names(question) - self.own)
        named_here = names(question) | {*words(question)[:1]}
        if foreign and not (self.names and self.names <= named_here):
            return 0.0
        return sum(self.weights.get(w, 0.0) for w in set(words(question)))


def cue_of(wordings: Sequence[str], told: Sequence[str] = ()) -> Cue:
    """What is common to the wordings of one question; names and rare words weigh most.

    Texts that were `told` of the same narrow it, unless they leave a name out.

    >>> list(cue_of(["Who started Oxinnovate?", "Who is behind Oxinnovate?"]).weights)
    ['oxinnovate']
    """
    common = set(words(wordings[0])).intersection(*(words(w) for w in wordings[1:]))
    named = {n for w in wordings for n in names(w) if n.upper() not in w or rarity(n) == 1}  # "PIN"
    for text in told:
        narrowed = common.intersection(words(text))
        if narrowed & named == common & named and any(rarity(w) > ORDINARY for w in narrowed):
            common = narrowed
    counted = {
        w: rarity(w) * (NAMES if w in named else 1) * (WHOSE if w in _WHOSE else 1)
        for w in words(wordings[0])
        if w in common or not common
    }
    total = sum(counted.values())
    weights = {w: weight / total for w, weight in counted.items() if weight > COMMON * total}
    own = frozenset(w for wording in wordings for w in words(wording))
    return Cue(weights, frozenset(named & weights.keys()), own)


_WHOSE = {"my", "our", "your", "his", "her", "its", "their"}


def names(text: str) -> set[str]:
    """Words that are written like names: with a capital within a sentence, or with digits.

    >>> sorted(names("So, who told Ada Quist? I did."))
    ['ada', 'quist']
    """
    within = [w for s in _SENTENCES.split(text.strip()) for w in re.findall(r"\w+", s)[1:]]
    capitals = {w for w in within if w[0].isupper() and w != "I"}
    return {w.casefold() for w in capitals | set(re.findall(r"\w*\d\w*", text))}


_SENTENCES = re.compile(r"(?<=[.?!:])\s+")


_ASKED_FOR = {
    "who": "who", "whom": "who", "whose": "who", "where": "where", "when": "when", "how": "how",
}  # fmt: skip


def asked_for(question: str) -> set[str]:
    """Whether a question says that it asks for a person, a place, a time or a manner or measure.

    Empty where it does not: "what" and "which" may ask for anything.

    >>> asked_for("Can you tell me by whom it was founded?"), asked_for("How is it called?")
    ({'who'}, set())
    """
    said = {*words(question)}
    manner = not said & {"called", "named"}
    return {_ASKED_FOR[w] for w in said if w in _ASKED_FOR and (w != "how" or manner)}


def rarity(word: str) -> float:
    """1 for a word that ordinary questions do not hold, less the more of them hold it."""
    return float((1 + _ordinary()[word]) ** -0.8)


@cache
def _ordinary() -> Counter[str]:
    """In how many everyday questions, or relations of everyday life, each word occurs."""
    lines = files("qf.method").joinpath("everyday.txt").read_text(encoding="utf-8").splitlines()
    relations = [" ".join(w.questions).replace("{x}", "") for w in everyday()]
    return Counter(w for text in (*lines, *relations) for w in set(words(text)))
