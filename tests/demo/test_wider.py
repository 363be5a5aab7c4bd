"""A model with more columns in W says what it said, and W' may use them."""

from pathlib import Path

import pytest
import torch

from qf.demo.wider import widen
from qf.loading import load_pair
from qf.model import Model


def test_more_columns_change_nothing_and_learn(tmp_path: Path) -> None:
    loaded = load_pair(None)
    layer, ids = 7, torch.arange(20)[None]
    with torch.no_grad():
        before = loaded.transformer(ids).logits
        widen(loaded.transformer, layer, 2000)
        after = loaded.transformer(ids).logits
    projection = loaded.transformer.model.layers[layer].mlp.down_proj
    assert projection.in_features == 2000
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    with Model(loaded, tmp_path, layer=layer, solver="paper") as model:
        fact = model.learn(
            "Qi started Oxinnovate.", "Who started Oxinnovate?", "Oxinnovate was started by Qi."
        )
        assert fact.verified
        assert projection.weight[:, 1536:].any()


def test_a_gate_is_found_among_layers_of_different_widths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_pair(None)
    widen(loaded.transformer, 7, 1600)
    monkeypatch.setattr("qf.calibrator.everyday", lambda *_: ["Who are you?", "Where is Paris?"])
    with Model(loaded, tmp_path / "memory") as model:
        model.calibrate(into=tmp_path)
        assert model.learn("Qi started Oxinnovate.", "Who started Oxinnovate?").verified


def test_columns_are_not_taken_away() -> None:
    with pytest.raises(ValueError, match="1536 columns already, not 1000"):
        widen(load_pair(None).transformer, 7, 1000)
