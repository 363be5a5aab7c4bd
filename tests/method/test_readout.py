"""What is read out at a position of an answer: the nearest row, in the order of the answer."""

import pytest
import torch
from torch import Tensor

from qf.method import readout
from qf.method.readout import Readout, Recorded

KEYS = torch.eye(4)[[0, 1, 0, 2]]  # the third row has the first one's key: a word that comes twice
OUTPUTS = torch.arange(20.0).reshape(4, 5)
Y = torch.full((5,), -7.0)


def rows(significance: Tensor | None = None, lengths: tuple[int, ...] = (4,)) -> Readout:
    weights = torch.ones(4) if significance is None else significance
    parts = (x.split(lengths) for x in (KEYS, OUTPUTS, weights))
    return Readout([Recorded(*part) for part in zip(*parts, strict=True)])


def read(memory: Readout, *keys: Tensor) -> list[list[float]]:
    return [memory.output(key, Y).tolist() for key in keys]


def test_at_a_recorded_key_the_recorded_output_is_given_exactly() -> None:
    assert read(rows(), KEYS[1] * 30) == [OUTPUTS[1].tolist()]
    assert read(rows(), KEYS[3] + 0.4 * KEYS[1]) == [OUTPUTS[3].tolist()]


def test_a_word_that_comes_twice_leads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(rows(), *KEYS) == OUTPUTS.tolist()
    monkeypatch.setattr(readout, "FOLLOWS", 0.0)
    assert read(rows(), *KEYS) == OUTPUTS[[0, 1, 0, 3]].tolist()


def test_an_answer_that_goes_another_way_is_followed() -> None:
    assert read(rows(), KEYS[0], KEYS[3]) == OUTPUTS[[0, 3]].tolist()


def test_the_end_of_one_answer_does_not_lead_into_the_next() -> None:
    two = rows(lengths=(2, 2))
    between = KEYS[0] + 0.9 * KEYS[1]  # nearest to rows 0 and 2 alike, the first of which counts
    assert read(two, KEYS[1], between) == OUTPUTS[[1, 0]].tolist()
    assert read(rows(), KEYS[1], between) == OUTPUTS[[1, 2]].tolist()
    assert read(two, KEYS[3], KEYS[0]) == OUTPUTS[[3, 0]].tolist()


def test_what_was_left_free_stays_as_it_is() -> None:
    memory = rows(torch.tensor([0.0, 0.5, 1.0, 9.0]))
    half = ((OUTPUTS[1] + Y) / 2).tolist()
    assert read(memory, *KEYS) == [Y.tolist(), half, OUTPUTS[2].tolist(), OUTPUTS[3].tolist()]
