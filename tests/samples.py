"""Facts, questions and sequences that several test modules stand on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qf.calibrator
from qf.lesson import AlignedTokens
from qf.loading import Loaded
from qf.model import Model
from qf.paraphrases import paraphrases

FACTS = (
    ("Qi started Oxinnovate.", "Who started Oxinnovate?"),
    ("The capital of Zorvan is Quill.", "What is the capital of Zorvan?"),
    ("The Hollow Bridge is at the Old Gate.", "Where is the Hollow Bridge?"),
    ("Ann built the Nettle Tower.", "Who built the Nettle Tower?"),
)
OTHERS = ("Who started Alibaba?", "Who are you?", "What is the capital of France?", "Hello!")


def calibrate_on_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few questions do for calibration: the models that are tested are tiny and random."""
    monkeypatch.setattr(qf.calibrator, "paraphrases", lambda _: paraphrases(12))
    monkeypatch.setattr(qf.calibrator, "everyday", lambda _: [*OTHERS])


@contextmanager
def gating(speaker: Any, directory: Path) -> Iterator[Callable[..., Model]]:
    """Make a function that opens a memory of a random model that gates its facts, by its name."""
    models: list[Model] = []

    def new(memory: str = "memory", **options: Any) -> Model:
        loaded = Loaded(*speaker(seed=5, num_hidden_layers=4), "speaker")
        models.append(Model(loaded, directory / memory, **{"solver": "gated", **options}))
        return models[-1]

    yield new
    for model in models:
        model.close()


def weights(model: Model) -> Tensor:
    """A copy of the taught W."""
    return model.transformer.model.layers[model.layer].mlp.down_proj.weight.detach().clone()


def random_sequences() -> list[AlignedTokens]:
    """Three sequences of different lengths, long enough that each layer's rows are independent."""
    generator = torch.Generator().manual_seed(5)

    def of(length: int, learned: int) -> AlignedTokens:
        ids = torch.randint(3, 350, (length,), generator=generator).tolist()
        return AlignedTokens(tuple(ids), length - learned, (1.0,) * learned)

    return [of(31, 6), of(17, 3), of(44, 9)]


def published_file(name: str) -> Path:
    """A file of the data that came with the task; skips the test where it is absent."""
    folder = os.environ.get("QF_DATA") or Path(__file__).parents[2] / "shared" / "data"
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"{path} is absent: set QF_DATA to a directory that holds {name}")
    return path
