"""Facts from behind the gate solved into W: all that are still answered there.

Fast memory becomes slow memory: nothing is in the way of an answer any more, and the facts can
leave as an adapter or a checkpoint. Those that are not answered stay behind the gate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from qf.asking import Asking
from qf.balancing import Candidate, balanced
from qf.errors import ModelError
from qf.memory import Fact
from qf.recording import Recording
from qf.remembered import Remembered
from qf.remembering import Remembering


@dataclass(frozen=True)
class Consolidation:
    """Which facts are in W now and which act behind the gate still.

    `undisturbed` is the part of everyday questions that are answered as before, `comfortable` the
    number of rows beyond which W begins to lose what it knew: a quarter of its columns.
    """

    consolidated: list[Fact]
    gated: list[Fact]
    undisturbed: float
    rows: int
    comfortable: int


def check_gated(solver: str) -> None:
    """Raise ModelError where the facts of a solver are in W at once."""
    if solver != "gated":
        raise ModelError(
            f"The solver {solver!r} keeps every fact in the weights already: consolidate"
            " facts of the solver 'gated'."
        )


def consolidate(
    asking: Asking, recording: Recording, remembering: Remembering, everyday: list[str], width: int
) -> Consolidation:
    """See `qf.model.Model.consolidate`. `width`: the columns of W; `everyday`: ordinary questions.

    W, the gate and the memory change together, or not at all.
    """
    facts = {f.id: f for f in remembering.memory.facts()}
    usual = asking.answers(everyday)
    with remembering.undone():
        tried = _answered(asking, recording, remembering, facts)
        same = [a == b for a, b in zip(usual, asking.answers(everyday), strict=True)]
        done = {
            k: replace(f, consolidated=tried[k].consolidated, rows=tried[k].count)
            for k, f in facts.items()
        }
        was = remembering.facts
        changed = [(f, tried[k].rows) for k, f in done.items() if _changed(was[k], tried[k])]
        if changed:
            remembering.led(lambda: remembering.memory.update(*changed))
    remembering.adopt(tried)
    return Consolidation(
        consolidated=[f for f in done.values() if f.consolidated],
        gated=[f for f in done.values() if not f.consolidated],
        undisturbed=sum(same) / len(same),
        rows=sum(r.rows.changing for r in tried.values() if r.consolidated),
        comfortable=width // 4,
    )


def _answered(
    asking: Asking, recording: Recording, remembering: Remembering, facts: dict[str, Fact]
) -> dict[str, Remembered]:
    """Install the facts in W that are answered beside one another, the others behind the gate."""
    candidates = {k: solved(recording, r) for k, r in remembering.facts.items()}
    in_weights = balanced(candidates, recording, remembering.install)
    chosen = [k for k, r in in_weights.items() if r.count]
    while True:
        tried = {
            k: in_weights[k] if k in chosen else recording.gated(r)
            for k, r in remembering.facts.items()
        }
        remembering.install(tried)
        holding = asking.holding(chosen, facts)
        if holding == chosen:
            return tried
        chosen = holding


def solved(recording: Recording, known: Remembered) -> Candidate:
    """The fact with the rows that it takes to be answered from W."""
    if known.lesson.image:  # which is not there to be shown again
        return Candidate(replace(known, held=known.rows, consolidated=True))
    rows, sequences = recording.whole(known)
    return Candidate(replace(known, held=rows, consolidated=True), tuple(sequences))


def _changed(was: Remembered, now: Remembered) -> bool:
    """Whether a fact moved, or its rows in W are others, or weigh something else."""
    if not now.consolidated or not was.consolidated:
        return now.consolidated != was.consolidated
    pairs = zip(was.rows.tensors().values(), now.rows.tensors().values(), strict=False)
    return was.count != now.count or not all(torch.equal(a, b) for a, b in pairs)
