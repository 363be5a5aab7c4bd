"""Several processes that share one model by tensor parallelism, each with a part of its weights.

All of them run the same program. What is not computed but chosen, read or written is done by the
first one alone, and the others are told. Knows torch.distributed only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Led(Protocol):
    """`alone` or `led`."""

    def __call__(self, act: Callable[[], T]) -> T:
        """Do it, and give what it gives."""


def alone(act: Callable[[], T]) -> T:
    """Do it: for a model that no other process shares."""
    return act()


def led(act: Callable[[], T]) -> T:
    """Have the first process do it, and give, or raise, in all of them what it gives or raises."""
    from torch import distributed

    told: list[Any] = [None, None]
    if distributed.get_rank() == 0:
        try:
            told[0] = act()
        except Exception as error:
            told[1] = error
    distributed.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    return told[0]
