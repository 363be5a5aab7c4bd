"""Whether a model of a type without a file of its own is of the form after all: one short pass.

Reads off one pass over a few tokens that in every layer y = W u + v, and that the vocabulary head
is applied as it is. Knows a model through a family that is on trial.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qf.errors import ModelError
from qf.families.base import Family
from qf.families.placement import device_of

TOKENS = 8


def complaint(model: Any, family: Family) -> str:
    """Say what keeps `family` from being that of `model`; empty when nothing does."""
    try:
        layers = list(family.layers(model))
        for layer in layers:
            for place in (family.W, family.v):
                layer.get_submodule(place)
    except (AssertionError, AttributeError):
        return f"its layers have no {family.W} and {family.v}"
    seen: list[dict[str, Tensor]] = [{} for _ in layers]
    hooks: list[RemovableHandle] = []
    try:
        for layer, parts in zip(layers, seen, strict=True):
            W = family.projection(layer)
            hooks += family.on_residual(layer, partial(_keep, parts, "v"))
            hooks.append(W.register_forward_hook(partial(_keep_output, parts, "z")))
            hooks.append(layer.register_forward_hook(partial(_keep_output, parts, "y")))
        states, logits = _run(model, family.decoder(model))
    except ModelError:
        raise
    except Exception as error:  # code of any kind runs here, and may fail in any way
        return f"its decoder does not run on plain tokens ({type(error).__name__})"
    finally:
        for hook in hooks:
            hook.remove()
    for index, parts in enumerate(seen):
        if parts.keys() != {"z", "v", "y"} or not _same(parts["y"], parts["z"], parts["v"]):
            return f"the output of its layer {index} is not W u + v"
    if logits is not None and not _same(logits, family.logits(model, states)):
        return "its logits are not those of its vocabulary head alone"
    return ""


def _run(model: Any, decoder: Any) -> tuple[Tensor, Tensor | None]:
    """Return the decoder's states and, where the model has a head, its logits."""
    embedding = decoder.get_input_embeddings()
    ids = torch.arange(TOKENS, device=device_of(embedding)) * (len(embedding.weight) // TOKENS)
    tokens = {"input_ids": ids[None], "position_ids": torch.arange(TOKENS).to(ids)[None]}
    with torch.no_grad():
        states = decoder(**tokens, use_cache=False).last_hidden_state
        if model.get_output_embeddings() is None:
            return states, None
        return states, model(**tokens, use_cache=False).logits


def _keep(parts: dict[str, Tensor], name: str, x: Tensor) -> None:
    parts[name] = x.clone()  # what comes later may change it in place


def _keep_output(parts: dict[str, Tensor], name: str, _m: nn.Module, _i: Any, out: Any) -> None:
    _keep(parts, name, out[0] if isinstance(out, tuple) else out)


def _same(y: Tensor, *parts: Tensor) -> bool:
    """Whether y is the sum of the parts, but for rounding; a model's few huge values aside."""
    if any(part.shape != y.shape for part in parts):
        return False
    eps = max(torch.finfo(y.dtype).eps, 1e-5)  # twice what rounding y, or a part, comes to
    total = sum((part.float() for part in parts), torch.zeros_like(y, dtype=torch.float32))
    size = y.float().abs() + sum(part.float().abs() for part in parts)
    close = (y.float() - total).abs() <= eps * size
    return bool(close.float().mean() > 0.99)
