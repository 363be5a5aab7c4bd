"""The calibration's file: written whole, found again, and never taken for another model's."""

from pathlib import Path

import torch

from qf.calibration import cached, key_of, read, write
from qf.method.calibrate import traffic_of

KEY = key_of("model", None, ["Who?"])


def traffic():
    return traffic_of(torch.randn(300, 100, generator=torch.Generator().manual_seed(0)))


def test_it_comes_back_as_it_was(tmp_path: Path):
    write(tmp_path / "new" / "file", KEY, traffic())
    key, found = read(tmp_path / "new" / "file", KEY)
    assert key == KEY and found.floor == traffic().floor
    assert torch.equal(found.directions, traffic().directions)
    assert torch.equal(found.moments, traffic().moments)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["file"]


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
