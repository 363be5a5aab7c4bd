"""A model with more columns in W says what it said, and W' may use them."""

from pathlib import Path

import pytest
import torch

from qf.demo.wider import widen
from qf.families import family_of
from qf.loading import load_pair
from qf.method.passes import pooled
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


def test_queries_are_looked_at_in_layers_of_different_widths() -> None:
    transformer = load_pair(None).transformer
    widen(transformer, 7, 1600)
    family, prompt = family_of(transformer), (list(range(20)), (3, 9))
    lower, upper = pooled(transformer, family, [5, 7], [prompt, prompt])
    assert lower.shape == (2, 1536) and upper.shape == (2, 1600)
    assert torch.equal(upper[0], upper[1]) and upper[:, 1536:].any()


def test_columns_are_not_taken_away() -> None:
    with pytest.raises(ValueError, match="1536 columns already, not 1000"):
        widen(load_pair(None).transformer, 7, 1000)
