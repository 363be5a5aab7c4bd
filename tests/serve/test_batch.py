"""Sequences that join and leave a batch, in every architecture, go on as each would alone."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from qf.errors import ModelError
from qf.families import family_of
from qf.recall import Asked
from qf.serve.batch import Batch

LENGTHS = (5, 23, 11, 17)
STEPS = 9


def prompts() -> list[Asked]:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, 350, (n,), generator=generator).tolist() for n in LENGTHS]
    return [Asked(tuple(i), "", (0, len(i))) for i in ids]


def alone(model: Any, asked: Asked) -> list[int]:
    """What Transformers' own generation gives for one prompt."""
    config = GenerationConfig(do_sample=False, max_new_tokens=STEPS, pad_token_id=0)
    model.generation_config = GenerationConfig()
    with torch.inference_mode():
        out = model.generate(torch.tensor([asked.ids]), generation_config=config)
    return out[0, len(asked.ids) :].tolist()


def test_each_sequence_goes_on_as_it_would_alone(architecture: str, tiny_model: Any) -> None:
    model = tiny_model(architecture)
    if "linear_attention" in (getattr(model.config, "layer_types", None) or ()):
        with pytest.raises(ModelError, match="carry a state from token to token"):
            Batch(model, family_of(model), 2, pad_id=0)
        return
    asked = prompts()
    expected = [alone(model, a) for a in asked]
    batch = Batch(model, family_of(model), 2, pad_id=0)
    written: dict[int, list[int]] = {}
    rows: list[int] = []

    def join(*new: int) -> None:
        logits = batch.join([asked[i] for i in new], [[] for _ in new])
        rows.extend(new)
        for i, row in zip(new, logits, strict=True):
            written[i] = [int(row.argmax())]

    def step() -> None:
        for i, row in zip(rows, batch.step([written[i][-1] for i in rows]), strict=True):
            written[i].append(int(row.argmax()))
        for i in [i for i in rows if len(written[i]) == STEPS]:
            batch.keep([k for k, other in enumerate(rows) if other != i])
            rows.remove(i)

    join(0)
    step()
    step()
    join(1, 2)
    for _ in range(4):
        step()
    join(3)
    while rows:
        assert len(batch) == len(rows)
        step()
    assert len(batch) == 0
    assert [written[i] for i in range(4)] == expected
