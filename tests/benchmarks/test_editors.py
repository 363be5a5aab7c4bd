"""The command that tries options of ROME and MEMIT: what it counts, on a tiny model."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import editors
from benchmarks.baselines import targets
from qf.evaluate import material

ORDINARY = ["Who are you?", "What is the capital of France?", "Where is Paris?"]


@pytest.fixture
def model(speaker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(targets, "everyday", lambda: ORDINARY)
    monkeypatch.setattr(material, "AROUND", 12)
    monkeypatch.setattr(editors, "SINGLES", 2)
    for part in speaker(max_position_embeddings=2048):
        part.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize("name", ["rome", "memit"])
def test_it_tells_what_was_reached(
    name: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [name, "--facts", "1", "2", "--model", model, "--set", "layer=2", "contexts=0"]
    assert editors.main([*words, "steps=0"]) == 0
    first, one, two = capsys.readouterr().out.splitlines()
    assert first == "Without an edit: exact 0. Layer 2 of 0 to 3."
    assert one.startswith(f"{name} layer=2 contexts=0 steps=0, 1 facts: ES 0, exact 0, other 0")
    assert two.startswith(f"{name} layer=2 contexts=0 steps=0, 2 facts: ES 0, exact 0, other 0")


def test_targets_in_their_places_are_what_storing_could_reach(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def loss(*options: str) -> float:
        words = ["rome", "--facts", "2", "--model", model, "--targets", "--set", "layer=2"]
        assert editors.main([*words, "contexts=0", *options]) == 0
        (found,) = re.findall(r"2 facts: loss per token ([\d.e-]+), exact", capsys.readouterr().out)
        return float(found)

    none, some, more = loss("steps=0"), loss("steps=8", "chunk=None"), loss("steps=8")
    assert none >= some > more  # one place for each token says more than one for all
