"""The fingerprint of a model: what changes it, and what must not."""

import hashlib
import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from qf.digest import digest_of
from qf.families import family_of
from qf.qf_memory import below

CONFIG = {"model_type": "qwen2", "hidden_size": 4, "rms_norm_eps": 1e-6, "rope": {"theta": 1e4}}
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }} é{% endfor %}"


def weights() -> dict[str, torch.Tensor]:
    numbers = torch.arange(12, dtype=torch.float32) / 7
    return {"W": numbers.reshape(3, 4).bfloat16(), "norm": numbers[:3], "scale": torch.tensor(2.0)}


def digest(**changes: Any) -> str:
    given = {"config": CONFIG, "tensors": weights(), "template": TEMPLATE}
    return digest_of(**{**given, **changes})


def test_it_is_the_sha256_of_the_header_and_the_bytes_in_the_order_of_names():
    tensors = weights()
    header = {
        "format": "qf digest 1",
        "config": CONFIG,
        "template": TEMPLATE,
        "tensors": [
            ["W", "torch.bfloat16", [3, 4]],
            ["norm", "torch.float32", [3]],
            ["scale", "torch.float32", []],
        ],
    }
    content = json.dumps(header, sort_keys=True).encode()
    for name in ("W", "norm", "scale"):
        content += bytes(tensors[name].contiguous().untyped_storage())[: tensors[name].nbytes]
    assert digest() == hashlib.sha256(content).hexdigest()


def test_every_single_byte_of_a_tensor_counts():
    seen = {digest()}
    for name, tensor in weights().items():
        for place in range(tensor.nbytes):
            tensors = weights()
            flat = tensors[name].reshape(-1).clone()
            flat.view(torch.uint8)[place] ^= 1
            tensors[name] = flat.reshape(tensor.shape)
            seen.add(digest(tensors=tensors))
    assert len(seen) == 1 + sum(tensor.nbytes for tensor in weights().values())


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {**CONFIG, "hidden_size": 5}},
        {"config": {**CONFIG, "rms_norm_eps": 1e-5}},
        {"config": {**CONFIG, "rope": {"theta": 1e6}}},
        {"config": {key: value for key, value in CONFIG.items() if key != "hidden_size"}},
        {"config": {**CONFIG, "more": None}},
        {"template": TEMPLATE + " "},
        {"template": ""},
        {"tensors": {**weights(), "W": weights()["W"].reshape(4, 3)}},
        {"tensors": {**weights(), "W": weights()["W"].view(torch.float16)}},
        {"tensors": {**weights(), "W": weights()["W"].float()}},
        {"tensors": {("V" if name == "W" else name): t for name, t in weights().items()}},
        {"tensors": {name: t for name, t in weights().items() if name != "scale"}},
    ],
)
def test_every_part_counts(changes):
    assert digest(**changes) != digest()


def test_order_layout_and_gradients_do_not_count():
    tensors = dict(reversed(weights().items()))
    tensors["W"] = tensors["W"].T.contiguous().T.requires_grad_()
    assert not tensors["W"].is_contiguous()
    tensors["norm"] = torch.cat([torch.zeros(5), tensors["norm"]])[5:]
    assert digest(config=dict(reversed(CONFIG.items())), tensors=tensors) == digest()


@pytest.mark.parametrize("size", [(1 << 24) + 1, 0])
def test_tensors_of_any_size(size):
    tensor = torch.zeros(size, dtype=torch.int8)
    before = digest(tensors={"W": tensor})
    if size:
        tensor[-1] = 1
        assert digest(tensors={"W": tensor}) != before
    assert digest(tensors={"W": tensor.clone()}) == digest(tensors={"W": tensor})


def test_it_is_the_same_in_another_process():
    script = f"""
import torch
from qf.digest import digest_of
numbers = torch.arange(12, dtype=torch.float32) / 7
W = numbers.reshape(3, 4).bfloat16()
tensors = {{"scale": torch.tensor(2.0), "W": W, "norm": numbers[:3]}}
print(digest_of(config={CONFIG!r}, tensors=tensors, template={TEMPLATE!r}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    answer = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == digest()


# What leads up to the taught layer

MIDDLE = 2


def entering(model: Any, W: Any) -> torch.Tensor:
    """What enters the taught projection for some tokens."""
    seen: list[torch.Tensor] = []
    hook = W.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        model(torch.arange(3, 40)[None])
    hook.remove()
    return seen[0]


def test_every_weight_that_leads_up_to_the_layer_counts(tiny_model: Any, architecture: str) -> None:
    model = tiny_model(architecture)
    family = family_of(model)
    W = family.projection(family.layer(model, MIDDLE))
    taught = next(name for name, m in model.named_modules() if m is W)
    u, told = entering(model, W), below(model, taught)
    counted = 0
    for name, weight in model.named_parameters():
        before = weight.detach().clone()
        weight.data = before + torch.randn(before.shape) / 4
        changes = not torch.equal(entering(model, W), u)
        if changes:
            counted += 1
            assert below(model, taught) != told, name
        if f".{MIDDLE + 1}." in name or name.startswith(taught):
            assert not changes and below(model, taught) == told, name
        weight.data = before
    assert counted > 12
    assert below(model, taught) == told == below(model.to(torch.bfloat16), taught)
