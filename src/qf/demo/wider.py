"""More columns for W without another model, to measure what a larger d_ff would hold.

Units with random inputs are added to the MLP of one layer, and zeros to W, so that the model
computes what it did. Their activations are further features of the same input, for W' to use.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear


def widen(transformer: Any, layer: int, columns: int, seed: int = 0) -> None:
    """Give W of `layer`, of a model built like Qwen2, so many `columns` in all, in place.

    The rows of the new units are normal, of the mean square of those that are there.

    Raises ValueError for fewer columns than there are.
    """
    mlp = transformer.model.layers[layer].mlp
    more = columns - mlp.down_proj.in_features
    if more < 0:
        raise ValueError(f"W has {mlp.down_proj.in_features} columns already, not {columns}.")
    generator = torch.Generator().manual_seed(seed)
    for name in ("gate_proj", "up_proj"):
        weight = getattr(mlp, name).weight.detach()  # (columns, D)
        drawn = torch.randn(more, weight.shape[1], generator=generator)
        drawn *= weight.float().square().mean().sqrt()
        setattr(mlp, name, _linear(torch.cat([weight, drawn.to(weight)])))
    weight = mlp.down_proj.weight.detach()  # (D, columns)
    mlp.down_proj = _linear(torch.cat([weight, weight.new_zeros(len(weight), more)], 1))


def _linear(weight: Tensor) -> Linear:
    made = Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = torch.nn.Parameter(weight, requires_grad=False)
    return made
