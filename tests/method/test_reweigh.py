"""What rows weigh next: more where a token is behind, less where it is far ahead."""

import pytest
import torch

from qf.method.reweigh import LEAST, MOST, all_said, reweighed


def test_rows_that_are_behind_gain_on_those_that_are_ahead() -> None:
    now = torch.ones(3)
    for _ in range(3):
        now = reweighed(now, torch.tensor([0.1, 0.8, 0.999]))
    assert now[0] > 20 and now[1] == 1 and now[2] < 0.3


def test_no_row_is_lost_and_none_takes_all() -> None:
    now = torch.ones(2)
    for _ in range(40):
        now = reweighed(now, torch.tensor([0.0, 1.0]))
    assert now.tolist() == pytest.approx([MOST, LEAST])


def test_a_row_of_no_significance_stays_out() -> None:
    weights = torch.tensor([0.0, 2.0])
    assert reweighed(weights, torch.tensor([0.0, 0.8])).tolist() == [0.0, 2.0]
    assert all_said(weights, torch.tensor([0.0, 0.8]))
    assert not all_said(weights, torch.tensor([1.0, 0.6]))


def test_what_is_given_stays_as_it_is() -> None:
    weights, p = torch.ones(2), torch.tensor([0.2, 0.99], dtype=torch.float64)
    assert reweighed(weights, p).dtype == torch.float32
    assert weights.tolist() == [1, 1]
