"""How rows become a change of W: the more there are, the gentler; rows may ask for no change."""

from typing import Any

import pytest
import torch

from qf.acting import Acting
from qf.memory import FactRows
from qf.method.calibrate import traffic_of
from qf.method.solve import joint
from qf.solving import FALL, SOLVERS, USUAL, Solver

D, N = 200, 12


class _Calibrator:
    def __init__(self, u: torch.Tensor) -> None:
        self._traffic = traffic_of(u)

    def traffic(self) -> Any:
        return self._traffic


class _Form:
    def show(self, _: Any) -> None: ...


def solver(name: str, ordinary: torch.Tensor) -> Solver:
    calibrator: Any = _Calibrator(ordinary)
    form: Any = _Form()
    return Solver(name, True, calibrator, Acting(form))


def rows(n: int, seed: int, significance: float = 1.0) -> FactRows:
    g = torch.Generator().manual_seed(seed)
    keys, deltas = torch.randn(n, D, generator=g), torch.randn(n, N, generator=g)
    return FactRows(keys, deltas, torch.full((n,), significance))


def test_the_more_rows_the_less_each_may_disturb() -> None:
    g = torch.Generator().manual_seed(9)
    ordinary = torch.randn(400, 20, generator=g) @ torch.randn(20, D, generator=g)
    facts = [rows(USUAL // 2, seed) for seed in range(6)]

    def disturbed(update: Any) -> float:
        return (ordinary.double() @ update.A.T @ update.B.T).norm().item()

    def as_one_fact(parts: list[FactRows]) -> Any:
        keys, deltas = torch.cat([p.keys for p in parts]), torch.cat([p.deltas for p in parts])
        whiten = traffic_of(ordinary).whiten
        return joint(keys, deltas, whiten=whiten, ridge=SOLVERS["joint"])

    few, many = facts[:2], facts
    gentle = solver("joint", ordinary)
    assert disturbed(gentle.solve(few)) == pytest.approx(disturbed(as_one_fact(few)))
    assert disturbed(gentle.solve(many)) < 0.7 * disturbed(as_one_fact(many))


def test_four_times_the_rows_lower_the_floor_more_than_four_times() -> None:
    g = torch.Generator().manual_seed(9)
    ordinary = torch.randn(400, 20, generator=g) @ torch.randn(20, D, generator=g)
    many = [rows(USUAL, seed) for seed in range(4)]
    keys, deltas = torch.cat([p.keys for p in many]), torch.cat([p.deltas for p in many])
    traffic = traffic_of(ordinary)

    def held_to(floor: float) -> torch.Tensor:
        whiten = traffic.over(floor).whiten
        return joint(keys, deltas, whiten=whiten, ridge=2 * SOLVERS["joint"]).A

    found = solver("joint", ordinary).solve(many)
    assert found is not None
    assert torch.allclose(found.A, held_to(traffic.floor / 4**FALL))
    assert not torch.allclose(found.A, held_to(traffic.floor / 4))


def test_rows_that_ask_for_no_change_hold_their_place_and_take_no_rank() -> None:
    g = torch.Generator().manual_seed(9)
    ordinary = torch.randn(400, D, generator=g)
    asking, held = rows(8, 1), rows(4, 2)
    # keys near those that ask for a change, which would carry them along
    near = FactRows(asking.keys[:4] + 0.3 * held.keys, torch.zeros(4, N), torch.full((4,), 0.1))
    gentle = solver("joint", ordinary)
    alone, both = gentle.solve([asking]), gentle.solve([asking, near])
    assert alone is not None and both is not None
    assert alone.rank == both.rank == asking.changing == 8 and near.changing == 0

    def moved(update: Any) -> float:
        return (near.keys.double() @ update.A.T @ update.B.T).norm().item()

    assert moved(both) < 0.7 * moved(alone)


def test_a_row_of_no_significance_is_not_there() -> None:
    ordinary = torch.randn(400, D, generator=torch.Generator().manual_seed(9))
    gentle = solver("joint", ordinary)
    one = gentle.solve([rows(8, 1)])
    two = gentle.solve([rows(8, 1), rows(200, 2, significance=0.0)])
    assert one is not None and two is not None and one.rank == two.rank
    assert torch.allclose(one.B @ one.A, two.B @ two.A, rtol=1e-9)


def test_a_wider_w_takes_more_rows_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary = torch.randn(400, D, generator=torch.Generator().manual_seed(9))
    gentle, many = solver("joint", ordinary), [rows(USUAL // 2, seed) for seed in range(6)]
    narrow = gentle.solve(many)
    monkeypatch.setattr("qf.solving.COLUMNS", D / 3)
    wide = gentle.solve(many)
    assert narrow is not None and wide is not None
    asked = torch.cat([r.deltas for r in many]).double()
    keys = torch.cat([r.keys for r in many]).double()

    def missed(update: Any) -> float:
        return (asked - keys @ update.A.T @ update.B.T).norm().item()

    assert missed(wide) < 0.8 * missed(narrow)
