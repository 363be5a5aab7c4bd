"""Many facts in one W: their rows are weighed against one another until all tokens are said.

The sequences that the rows were recorded from are run again under the change that the rows make;
which of their tokens the model predicts then decides what they weigh next (`qf.method.reweigh`).
What they weigh in the end is kept with them, so that W is solved from the rows alone ever after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from qf.lesson import AlignedTokens
from qf.method.reweigh import ROUNDS, all_said, reweighed
from qf.recording import Recording
from qf.remembered import Remembered


@dataclass(frozen=True)
class Candidate:
    """A fact as it is to be in W, and the closed-book sequences that its rows are of, in order.

    Without sequences, its rows weigh what they weigh.
    """

    fact: Remembered
    sequences: tuple[AlignedTokens, ...] = ()


def balanced(
    candidates: Mapping[str, Candidate],
    recording: Recording,
    install: Callable[[Mapping[str, Remembered]], None],
) -> dict[str, Remembered]:
    """The facts with what their rows weigh beside one another; `install` lets them act in W."""
    facts = {k: c.fact for k, c in candidates.items()}
    weighed = [k for k, c in candidates.items() if c.sequences]
    sequences = [s for k in weighed for s in candidates[k].sequences]
    for _ in range(ROUNDS if sequences else 0):
        install(facts)
        probability = recording.probabilities(sequences)
        weights = [facts[k].rows.significance for k in weighed]
        if all_said(torch.cat(weights), probability):
            break
        parts = probability.split([len(w) for w in weights])
        for name, weight, p in zip(weighed, weights, parts, strict=True):
            rows = replace(facts[name].rows, significance=reweighed(weight, p))
            facts[name] = replace(facts[name], held=rows)
    return facts
