"""How the rows of facts become one change of W: which solver, its ridge, and what it protects.

Always from the base W and all the rows at once, so that the order of teaching plays no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qf.acting import Acting
from qf.calibrator import Calibrator
from qf.errors import ModelError
from qf.memory import FactRows
from qf.method.solve import Update, joint

SOLVERS: dict[str, float] = {"paper": 0.0, "joint": 0.01, "gated": 0.01}
"""Ridge λ of each solver: `paper` answers every row exactly (Eq. 3), `joint` all of them gently,
and with C from calibration, which protects what the model does already. With `gated` each fact acts
for the questions that are about it (qf.recall), until it is consolidated as `joint` does it."""

USUAL, COLUMNS = 50, 1536
"""Rows that one fact, in three wordings, brings to the embedded model, whose W has so many columns;
a wider W takes more alike. Beyond that, what ordinary traffic shows counts for more against what it
does not, and the ridge is higher. On the embedded model one fact does best with 8 times the mean of
C as its floor, a hundred with some four-hundredth of that, with more columns with more."""
FALL = 1.3
"""The floor falls with this power of the number of rows."""

DEFAULT_SOLVER = "gated"


def check_solver(name: str) -> None:
    """Raise ModelError for a solver that there is not."""
    if name not in SOLVERS:
        raise ModelError(f"The solver {name!r} is unknown: choose gated, joint or paper.")


@dataclass
class Solver:
    """One of SOLVERS, and what it protects: ordinary traffic, if it is to and that is known."""

    name: str
    calibrate: bool
    calibrator: Calibrator
    acting: Acting

    @property
    def gated(self) -> bool:
        """Whether facts act behind the gate until they are consolidated."""
        return self.name == "gated"

    @property
    def keeps(self) -> bool:
        """Whether what the model says of an answer anyway is held in its place; not in Eq. 3."""
        return self.name != "paper"

    def solve(self, parts: Sequence[FactRows]) -> Update | None:
        """ΔW of all these rows; None where there are none."""
        used = [r for r in parts if len(r.keys)]
        if not used:
            return None
        significance = torch.cat([r.significance for r in used])
        keys = torch.cat([r.keys for r in used])
        usual = USUAL * max(1.0, keys.shape[1] / COLUMNS)
        load = max(1.0, int((significance > 0).sum()) / usual) if self.keeps else 1.0
        whiten = None
        if self.calibrate and self.name != "paper":
            with self.acting.base():
                traffic = self.calibrator.traffic()
            whiten = traffic.over(traffic.floor / load**FALL).whiten if traffic else None
        update = joint(
            keys,
            torch.cat([r.deltas for r in used]),
            significance=significance,
            whiten=whiten,
            ridge=SOLVERS[self.name] * load**0.5,
        )
        # Rows that ask for no change have done their part.
        asking = (update.B.any(0).cpu() & (significance > 0)).to(update.B.device)
        return Update(update.B[:, asking], update.A[asking])
