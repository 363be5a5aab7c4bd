"""How much memory a block of code takes: the process's, or a CUDA device's own."""

from __future__ import annotations

import ctypes
import gc
import platform
from contextlib import suppress
from pathlib import Path

import torch


class Peak:
    """How much more memory was in use at a time inside of the block than at its beginning.

    On a CUDA device its own; else the process's. `megabytes` is None where the system does not
    tell: it keeps one peak for the life of a process, which only Linux lets go of.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.megabytes: float | None = None
        self._start: float | None = None
        self._fresh = False  # whether the peak that the system keeps is of the block alone

    def __enter__(self) -> Peak:
        gc.collect()
        _give_back()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._fresh = True
        else:
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
                self._fresh = True
        self._start = self._most()
        return self

    def __exit__(self, *_: object) -> None:
        most = self._most()
        if most is not None and self._start is not None and (self._fresh or most > self._start):
            self.megabytes = (most - self._start) / 2**20

    def _most(self) -> float | None:
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return _most_resident()


def _give_back() -> None:
    """Let go of what is free already: it would be used again without being counted."""
    with suppress(OSError, AttributeError, TypeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


def _most_resident() -> float | None:
    """The most bytes of memory that this process had at a time; None where that is not told."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if platform.system() == "Darwin" else most * 1024)
