"""How a change of W acts: merged into W, or in a branch beside it.

    merged   W' = W + B A            no cost at inference; the base W is kept, so that undo is exact
    branch   y = W u + v + B (A u)   W is not touched: it may be quantised, offloaded or sharded

Both give the same answers. Knows a model through its family; no facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qf.errors import ModelError
from qf.families import Family
from qf.method.solve import Update

FORMS = ("auto", "merged", "branch")


class Form(Protocol):
    """One way to let a change act on a projection."""

    name: str

    def of(self, change: Update) -> Any:
        """What is to be shown for a change to act."""

    def show(self, state: Any) -> None:
        """Let what `of` gave act, and nothing else; None is the base W alone."""


class Merged:
    """The change is added to W once; base and sum are both kept."""

    name = "merged"

    def __init__(self, family: Family, projection: nn.Module) -> None:
        self._family, self._projection = family, projection
        self._base = family.weight(projection)

    def of(self, change: Update) -> Tensor:
        """Return W + B A, rounded to W's precision."""
        return change.apply(self._base)

    def show(self, state: Tensor | None) -> None:
        """Put it in W's place."""
        self._family.put(self._projection, self._base if state is None else state)


class Branch:
    """The change is computed beside W, in float32, at each pass."""

    name = "branch"

    def __init__(self, family: Family, projection: nn.Module) -> None:
        self._family, self._projection = family, projection
        self._factors: tuple[Tensor, Tensor] | None = None
        self._hook: RemovableHandle | None = None

    def of(self, change: Update) -> tuple[Tensor, Tensor]:
        """Return A (n, D) and B (N, n)."""
        return change.A.float(), change.B.float()

    def show(self, state: tuple[Tensor, Tensor] | None) -> None:
        """Hook it on the projection; on its own output first, so that others see the sum."""
        if self._hook is not None:
            self._hook.remove()
        self._factors, self._hook = state, None
        if state is not None:
            self._hook = self._projection.register_forward_hook(self._add, prepend=True)

    def _add(self, projection: nn.Module, inputs: tuple[Tensor, ...], z: Tensor) -> Tensor:
        assert self._factors is not None
        A, B = self._factors = self._factors[0].to(z.device), self._factors[1].to(z.device)
        u = self._family.inputs(projection, inputs[0]).to(A)
        return (z.float() + (u @ A.T) @ B.T).to(z.dtype)


def form_of(family: Family, model: Any, projection: nn.Module, wanted: str = "auto") -> Form:
    """The form `wanted`; "auto": merged where W can be written, else a branch.

    Raises ModelError: no such form, or a W that cannot be written and is to be.
    """
    if wanted not in FORMS:
        raise ModelError(f"The form {wanted!r} is unknown: choose from {', '.join(FORMS)}.")
    why = family.unwritable(model, projection)
    if wanted == "merged" and why:
        raise ModelError(
            f"What is learned cannot be merged into the weights, for they are {why}: leave the form"
            " at 'auto' (QF_APPLY), which lets it act beside them."
        )
    if wanted == "branch" or why:
        return Branch(family, projection)
    return Merged(family, projection)


@contextmanager
def acting(form: Form, change: Update) -> Iterator[None]:
    """Let a change act inside the block, and the base W after it."""
    form.show(form.of(change))
    try:
        yield
    finally:
        form.show(None)


def size(family: Family, projection: nn.Module) -> float | None:
    """Return ‖W‖ (Frobenius), or None where W is quantised."""
    with torch.no_grad(), family.at_hand(projection) as W:
        return None if W is None else float(W.float().norm())
