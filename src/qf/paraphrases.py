"""Questions in several wordings about names that nobody knows: what the gate is calibrated on.

Made from the relations of everyday life and made-up names, by a seed of their own. Knows text only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from qf.demo.curriculum import ask
from qf.demo.drawing import drawn, named
from qf.demo.relations import WorldFact
from qf.demo.worded import everyday, texts

WORDINGS = 4  # of each question
SUBJECTS = 2  # that each relation is asked about
SEED = 20


@dataclass(frozen=True)
class Paraphrases:
    """`questions`; which of them mean the same; and which ask about the same relation."""

    questions: tuple[str, ...]
    meanings: tuple[int, ...]
    relations: tuple[int, ...]


def source(relations: int | None = None, seed: int = SEED) -> tuple[str, ...]:
    """What the questions are made from; known at once, unlike the questions themselves."""
    return (f"{relations} {seed} {WORDINGS} {SUBJECTS}", *texts())


def paraphrases(relations: int | None = None, seed: int = SEED) -> Paraphrases:
    """WORDINGS questions about each of SUBJECTS names under so many relations (None: all).

    >>> paraphrases(1).meanings
    (0, 0, 0, 0, 1, 1, 1, 1)
    """
    rng = random.Random(seed)
    known = everyday()
    count = len(known) if relations is None else min(relations, len(known))
    questions: list[str] = []
    meanings: list[int] = []
    about: list[int] = []
    for number in range(count):
        told = known[number * len(known) // count]
        for subject in range(SUBJECTS):
            relation = drawn(rng, told)
            fact = WorldFact(relation, named(rng, relation.subject), "")
            found: list[str] = []
            while len(found) < WORDINGS:
                question = ask(rng, fact)
                if question not in found:
                    found.append(question)
            questions += found
            meanings += [number * SUBJECTS + subject] * WORDINGS
            about += [number] * WORDINGS
    return Paraphrases(tuple(questions), tuple(meanings), tuple(about))
