"""Out of memory, told in one sentence with the sizes; what had been taken is free again.

Knows what torch raises, and the sizes of devices.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, TypeVar, cast

import torch

from qf.errors import ModelError

GIB = 2**30
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": GIB, "TiB": 2**40}
_WANTED = re.compile(r"[Tt]ried to allocate ([\d.]+) (\w+)")

F = TypeVar("F", bound=Callable[..., Any])


def told_sizes(method: F) -> F:
    """Have a method of what has a Transformers model, `placed`, raise ModelError without memory."""

    @wraps(method)
    def inner(self: Any, *args: Any, **options: Any) -> Any:
        with sizes_told(self.placed):
            return method(self, *args, **options)

    return cast(F, inner)


@contextmanager
def sizes_told(model: Any) -> Iterator[None]:
    """Have the block raise ModelError where memory runs out, and give back what it had taken."""
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        traceback.clear_frames(error.__traceback__)  # else the error holds what did not fit
        why = shortage(error, [p.device for p in model.parameters()])
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    size = sum(p.nbytes for p in model.parameters() if not p.is_meta)
    raise ModelError(
        f"There is not enough memory ({why}; the model takes {size / GIB:.2f} GiB), and nothing was"
        " learned or changed: make it shorter, or load the model smaller (--dtype bfloat16) or over"
        " more devices (--device-map auto)."
    )


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        said in text for said in ("out of memory", "can't allocate memory", "not enough memory")
    )


def shortage(error: BaseException, devices: list[torch.device]) -> str:
    """What was wanted, where that is told, and what is free on each device."""
    found = _WANTED.search(str(error))
    wanted = float(found[1]) * UNITS.get(found[2], 1) / GIB if found else None
    asked = "" if wanted is None else f"{wanted:.2f} GiB wanted; "
    used = sorted({str(d) for d in devices if d.type == "cuda"})
    return asked + ", ".join([*map(_free_of_gpu, used), *_free_here()])


def _free_of_gpu(name: str) -> str:
    free, whole = torch.cuda.mem_get_info(torch.device(name))
    return f"{name} has {free / GIB:.2f} of {whole / GIB:.2f} GiB free"


def _free_here() -> list[str]:
    with suppress(AttributeError, ValueError, OSError):  # not told on every system
        page = os.sysconf("SC_PAGE_SIZE")
        whole, free = (os.sysconf(name) * page for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        return [f"this machine has {free / GIB:.2f} of {whole / GIB:.2f} GiB free"]
    return []
