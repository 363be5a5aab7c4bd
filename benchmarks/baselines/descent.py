"""What the baselines with a gradient share: the loss on the answer, and steps until it is small.

Knows models and tokens; no method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from qf.lesson import AlignedTokens

STOP = 0.01  # the loss that counts as learned


def states(model: Any, sequences: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """The top hidden states (n, T, N) of sequences, padded on the right to the longest."""
    device = model.get_input_embeddings().weight.device
    longest = max(map(len, sequences))
    ids = [[*s, *[pad_id] * (longest - len(s))] for s in sequences]
    mask = [[1] * len(s) + [0] * (longest - len(s)) for s in sequences]
    return model.get_decoder()(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=torch.tensor(mask, device=device),
        use_cache=False,
    ).last_hidden_state


def losses(model: Any, sequences: Sequence[AlignedTokens], pad_id: int) -> Tensor:
    """The negative log likelihood (n,) of each sequence's learned tokens, a mean over them."""
    top = states(model, [s.input_ids for s in sequences], pad_id)
    x = torch.cat([top[i, s.positions.start : s.positions.stop] for i, s in enumerate(sequences)])
    learned = torch.tensor([token for s in sequences for token in s.learned], device=x.device)
    each = F.cross_entropy(model.get_output_embeddings()(x).float(), learned, reduction="none")
    return torch.stack([part.mean() for part in each.split([len(s.learned) for s in sequences])])


def descend(
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Sequence[int]], Tensor],
    count: int,
    *,
    passes: int,
    batch: int,
    stop: float = STOP,
    seed: int = 0,
) -> float:
    """Step until the mean loss over a pass is below `stop`, or `passes` are over; return it.

    `loss` gives the losses of some of `count` items by their numbers. A pass takes them in random
    batches. The loss of a pass is the one met on the way, before each step.
    """
    order, mean = torch.Generator().manual_seed(seed), float("inf")
    for _ in range(passes):
        met = []
        for part in torch.randperm(count, generator=order).split(batch):
            each = loss(part.tolist())
            met.append(each.detach())
            optimizer.zero_grad()
            each.mean().backward()
            optimizer.step()
        mean = torch.cat(met).mean().item()
        if mean < stop:
            break
    return mean


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter of the model gets a gradient; afterwards each is as it was."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in flags:
            p.requires_grad_(False)
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


@contextmanager
def output_of(
    module: nn.Module, function: Callable[[Tensor, Tensor], Tensor | None]
) -> Iterator[None]:
    """The module's output is `function(its input, its output)`, or as it was where that is None."""
    handle = module.register_forward_hook(lambda _, x, y: function(x[0], y))
    try:
        yield
    finally:
        handle.remove()
