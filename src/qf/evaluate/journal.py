"""The file that an evaluation goes on from: a header, then a line for each method that is done.

Knows nothing of models, nor of what the figures are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qf.errors import QFError


class Journal:
    """A file of JSON lines: what is evaluated, then the figures of each method that is done.

    A line is there as a whole or not at all; one that was cut off is written again. `compared`
    names what two runs must have in common in their headers, digests with how they are told.

    Raises QFError: a file that is none of these, or that cannot be read or written.
    """

    def __init__(self, path: Path, compared: Mapping[str, str] | None = None) -> None:
        self.path, self.compared = path, _COMPARED if compared is None else compared
        self.header: dict[str, Any] | None = None
        self.lines: list[dict[str, Any]] = []  # all but the header
        self._whole = 0  # bytes up to the end of the last whole line
        if path.is_dir() or not path.parent.is_dir():
            raise self._unusable("name a file in a directory")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise self._unusable("no permission")
        if path.exists():
            self._read()

    def begin(self, header: dict[str, Any]) -> None:
        """Go on with the evaluation in the file, or begin one; QFError if it is another one."""
        header = {_FORMAT: _VERSION, **header}
        if self.header is None:
            self._append(header)
            self.header = header
            return
        if other := _difference(self.header, header, self.compared):
            raise QFError(
                f"{self.path} holds an evaluation of other settings ({other}): name another file"
                " with --out."
            )
        if self._whole < self.path.stat().st_size:
            os.truncate(self.path, self._whole)

    @property
    def figures(self) -> dict[str, Any]:
        """The latest figures of each method."""
        return {line["method"]: line["figures"] for line in self.lines}

    def add(self, method: str, figures: Mapping[str, Any], **of: int) -> None:
        """Write the figures of a method that is done, and `of` what they are."""
        line = {"method": method, **of, "figures": dict(figures)}
        self._append(line)
        self.lines.append(line)

    def _read(self) -> None:
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise self._unusable(error.strerror or "it cannot be read") from None
        self._whole = content.rfind(b"\n") + 1
        try:
            lines = [json.loads(line) for line in content[: self._whole].splitlines()]
            if not content:
                return
            if lines[0][_FORMAT] != _VERSION:
                raise ValueError
            self.header = lines[0]
            self.lines = [dict(line, figures=dict(line["figures"])) for line in lines[1:]]
            _ = self.figures  # each has its method
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            raise QFError(
                f"{self.path} is not an evaluation of this qf: name another file with --out."
            ) from None

    def _append(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line) + "\n").encode("ascii")
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                size = os.fstat(file).st_size
                try:
                    if os.write(file, data) < len(data):
                        raise OSError(28, "No space left on device")
                    os.fsync(file)
                except BaseException:
                    os.ftruncate(file, size)
                    raise
            finally:
                os.close(file)
        except OSError as error:
            raise self._unusable(error.strerror or "it cannot be written") from None

    def _unusable(self, why: str) -> QFError:
        return QFError(f"The file {self.path} cannot be used ({why}): choose another with --out.")


_FORMAT, _VERSION = "qf eval", 1
_COMPARED = {
    "facts": "", "seed": "", "immediate": "", "layer": "", "system": "", "calibrate": "",
    "device": "", "versions": "", "data_digest": "other data", "model_digest": "another model",
}  # fmt: skip
"""What two runs must have in common to stand in one file; digests are told in words."""


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], compared: Mapping[str, str]) -> str:
    """The first setting in which two headers differ, in words, or ""."""
    for name, told in compared.items():
        if old.get(name) != new[name]:
            return told or f"{name} {old.get(name)!r}, not {new[name]!r}"
    return ""
