"""The calibration's file: written whole, found again, and never taken for another model's."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from qf.calibration import cached, key_of, read, write
from qf.method.calibrate import traffic_of

KEY = key_of("model", None, ["Who?"])


def traffic(m=300, D=100):
    return traffic_of(torch.randn(m, D, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("size", [(50, 8), (300, 100)])
def test_it_comes_back_as_it_was(tmp_path: Path, size: tuple[int, int]):
    write(tmp_path / "new" / "file", KEY, traffic(*size))
    key, found = read(tmp_path / "new" / "file", KEY)
    assert key == KEY and found.floor == traffic(*size).floor
    assert torch.equal(found.directions, traffic(*size).directions)
    assert torch.equal(found.moments, traffic(*size).moments)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["file"]


def test_one_whose_directions_are_all_in_half_precision_is_read(tmp_path: Path):
    V = torch.linalg.qr(torch.randn(100, 100))[0].half().contiguous()
    tensors = {"directions": V, "moments": torch.arange(1.0, 101.0)}
    safetensors.torch.save_file(tensors, tmp_path / "file", {"key": KEY, "floor": "2.0"})
    found = read(tmp_path / "file", KEY)
    assert found is not None and torch.equal(found[1].directions, V.float())


def test_what_is_absent_damaged_or_of_another_model_is_not_taken(tmp_path: Path):
    file = tmp_path / "file"
    assert read(file, KEY) is None
    write(file, KEY, traffic())
    assert read(file, key_of("another", None, ["Who?"])) is None
    file.write_bytes(file.read_bytes()[:-20])
    assert read(file, KEY) is None
    file.write_text("hello")
    assert read(file, KEY) is None


def test_the_key_tells_model_prompt_and_questions_apart():
    others = [("other", None, ["Who?"]), ("model", "", ["Who?"]), ("model", None, ["Who"])]
    assert KEY not in [key_of(*other) for other in others]
    assert cached(KEY) != cached(key_of(*others[0]))
