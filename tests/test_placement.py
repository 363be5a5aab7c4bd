"""Where the weights lie and what they are makes no difference to what is learned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qf.loading import Loaded, load_pair
from qf.model import Model
from tests.samples import FACTS, calibrate_on_little

SOLVERS = ("paper", "joint", "gated")
STATEMENT, QUESTION = FACTS[0]


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate_on_little(monkeypatch)


@pytest.fixture
def saved(speaker: Any, tmp_path: Path) -> Callable[..., Path]:
    def save(kind: str = "llama", **options: Any) -> Path:
        place = tmp_path / kind
        if not place.exists():
            for part in speaker(kind, **options):
                part.save_pretrained(place)
        return place

    return save


def told_and_learned(loaded: Loaded, memory: Path, **options: Any) -> list[Any]:
    with Model(loaded, memory, **options) as model:
        binding = model.binding.digest
        told = model.ask(QUESTION, STATEMENT)
        before = model.ask(QUESTION)
        facts = [model.learn(*fact, rewordings=0) for fact in FACTS[:3]]
        after = [model.ask(f.query) for f in facts]
        model.forget_all()
        return [model.form, binding, told, before, after, model.ask(QUESTION)]


def test_mk(saved):
    import shutil
    shutil.copytree(saved(), "/tmp/place-tiny", dirs_exist_ok=True)
