"""Facts in one W are weighed against one another, by what the model says under all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from qf.balancing import Candidate, balanced
from qf.lesson import AlignedTokens, Lesson
from qf.memory import FactRows
from qf.method.reweigh import ROUNDS
from qf.remembered import Remembered


def candidate(name: str, significance: Sequence[float], sequences: bool = True) -> Candidate:
    n = len(significance)
    rows = FactRows(torch.randn(n, 6), torch.randn(n, 4), torch.tensor(significance))
    fact = Remembered(Lesson(f"{name} is so.", f"Is {name} so?", "Yes."), (), None, rows, True)
    aligned = AlignedTokens(tuple(range(n + 3)), 3, (1.0,) * n)
    return Candidate(fact, (aligned,) if sequences else ())


class Judged:
    """A model that says a row's token if the row weighs at least what it is said to take."""

    def __init__(self, takes: Sequence[float]) -> None:
        self.takes, self.acting, self.asked = torch.tensor(takes), torch.empty(0), 0

    def install(self, facts: Mapping[str, Remembered]) -> None:
        self.acting = torch.cat([f.rows.significance for f in facts.values()])

    def probabilities(self, sequences: Sequence[AlignedTokens]) -> torch.Tensor:
        self.asked += 1
        assert sum(len(s.learned) for s in sequences) == len(self.takes)
        weights = self.acting[: len(self.takes)]
        return torch.where(weights >= self.takes, 0.9, 0.2)


def weighed(model: Judged, *candidates: Candidate) -> list[list[float]]:
    named = {str(i): c for i, c in enumerate(candidates)}
    recording: Any = model
    found = balanced(named, recording, model.install)
    assert list(found) == list(named)
    return [f.rows.significance.tolist() for f in found.values()]


def test_rows_gain_until_all_is_said() -> None:
    model = Judged([1.0, 5.0, 0.1])
    one, two = weighed(model, candidate("one", [1.0, 1.0]), candidate("two", [0.1]))
    assert one == [1.0, 9.0] and two == pytest.approx([0.1])
    assert model.asked == 3  # the third time all is said


def test_what_is_never_said_does_not_go_on_for_ever() -> None:
    model = Judged([1e9])
    ((weight,),) = weighed(model, candidate("one", [1.0]))
    assert model.asked == ROUNDS and weight == pytest.approx(3.0**ROUNDS)


def test_without_sequences_rows_weigh_what_they_weigh() -> None:
    model = Judged([3.0])
    one, shown = weighed(model, candidate("one", [1.0]), candidate("shown", [0.5], sequences=False))
    assert one == [3.0] and shown == [0.5]
    assert weighed(Judged([]), candidate("shown", [0.5], sequences=False)) == [[0.5]]


def test_keys_and_deltas_are_left_alone() -> None:
    given = candidate("one", [1.0, 1.0])
    model = Judged([2.0, 2.0])
    recording: Any = model
    rows = balanced({"one": given}, recording, model.install)["one"].rows
    assert torch.equal(rows.keys, given.fact.rows.keys)
    assert torch.equal(rows.deltas, given.fact.rows.deltas)
    assert given.fact.rows.significance.tolist() == [1.0, 1.0]
