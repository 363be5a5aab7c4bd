"""The file that an evaluation goes on from; how one does, tests/evaluate/test_run.py shows."""

from pathlib import Path

import pytest

from qf.errors import QFError
from qf.evaluate import journal as module
from qf.evaluate.journal import Journal


@pytest.mark.parametrize(
    "content", ["mine", "mine\n", "{}\n", "[]\n", '{"qf eval": 2}\n', '{"qf eval": 1}\n{}\n']
)
def test_a_file_that_is_none_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text(content)
    with pytest.raises(QFError, match=r"out\.jsonl is not an evaluation .*--out\.$"):
        Journal(file)
    assert file.read_text() == content


def test_a_line_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, write = tmp_path / "out.jsonl", module.os.write
    journal = Journal(file)
    journal.begin({"qf eval": 1})
    before = file.read_bytes()
    monkeypatch.setattr(module.os, "write", lambda fd, data: write(fd, data[:5]))  # a full disk
    with pytest.raises(QFError, match=r"out\.jsonl cannot be used \(No space"):
        journal.add("none", {"score": 1.0})
    assert file.read_bytes() == before and journal.figures == {}


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere" / "out.jsonl"):
        with pytest.raises(QFError, match=r"cannot be used .*--out\.$"):
            Journal(place)
