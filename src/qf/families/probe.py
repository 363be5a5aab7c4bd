"""Whether a model of a type without a file of its own is of the form after all: one short pass.

Reads off one pass over a few tokens that in every layer y = W u + v, and that the vocabulary head
is applied as it is. Knows a model through a family that is on trial.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qf.families.base import Family
from qf.families.placement import device_of

TOKENS = 8


def complaint(model: Any, family: Family) -> str:
    """Say what keeps `family` from being that of `model`; empty when nothing does."""
    hooks: list[RemovableHandle] = []
    try:
        seen = [(layer, _watched(family, layer, hooks)) for layer in family.layers(model)]
        return _fault(model, family, seen)
    except (AssertionError, AttributeError):
        return f"its layers have no {family.W} and {family.v}"
    finally:
        for hook in hooks:
            hook.remove()


def _watched(family: Family, layer: nn.Module, hooks: list[RemovableHandle]) -> dict[str, Tensor]:
    """What is to hold z, v and y of a layer after a pass."""
    parts: dict[str, Tensor] = {}
    W = family.projection(layer)
    hooks += family.on_residual(layer, partial(_keep, parts, "v"))
    hooks.append(W.register_forward_hook(partial(_keep_output, parts, "z")))
    hooks.append(layer.register_forward_hook(partial(_keep_output, parts, "y")))
    return parts


def _fault(model: Any, family: Family, seen: list[tuple[nn.Module, dict[str, Tensor]]]) -> str:
    """What one pass shows to be otherwise than the family has it."""
    try:
        states, logits = _run(model, family.decoder(model))
    except Exception as error:  # code of any kind runs here, and may fail in any way
        return f"its decoder does not run on plain tokens ({type(error).__name__})"
    for index, (layer, parts) in enumerate(seen):
        if parts.keys() != {"z", "v", "y"} or not _adds_up(family, layer, **parts):
            return f"the output of its layer {index} is not W u + v"
    if logits is not None and not _same(logits, family.logits(model, states), logits.abs()):
        return "its logits are not those of its vocabulary head alone"
    return ""


def _adds_up(family: Family, layer: nn.Module, z: Tensor, v: Tensor, y: Tensor) -> bool:
    N = y.shape[-1]
    if z.shape[-1] != N:
        return False
    y, z, v = y.flatten(0, -2), z.flatten(0, -2).float(), v.flatten(0, -2).float()
    s = family.scale(layer)
    return _same(y, s * family.output(layer, z, v), s * (z.abs() + v[:, :N].abs()))


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


def _same(y: Tensor, expected: Tensor, size: Tensor) -> bool:
    """Whether y is as expected, but for rounding of parts of this size; few huge values aside."""
    if expected.shape != y.shape:
        return False
    eps = max(torch.finfo(y.dtype).eps, 1e-5)  # twice what rounding y, or a part, comes to
    near = (y.float() - expected.float()).abs() <= eps * (y.float().abs() + size.float())
    return bool(near.float().mean() > 0.99)
