"""A line for every fact that comes or goes: who, when, where, which fact; never what it says.

What was forgotten is to be gone, so that the lines name ids alone. A line is written once the
memory has the change: a crash between the two leaves a change without one.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

FILE = "audit.jsonl"


class Audit:
    """The lines of one server, at the end of one file."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE
        self._lock = threading.Lock()

    def write(self, action: str, space: str, fact: str, caller: str, request: str) -> None:
        """Append a line; a disk that does not take it stops nothing, but is told in the log."""
        self.write_each(action, space, [fact], caller, request)

    def write_each(
        self, action: str, space: str, facts: Iterable[str], caller: str, request: str
    ) -> None:
        """Append a line for each fact; they are on the disk when the call returns."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        where = {"time": now, "action": action, "space": space}
        lines = [json.dumps({**where, "fact": f, "key": caller, "request": request}) for f in facts]
        if not lines:
            return
        try:
            with self._lock, self._file.open("a", encoding="ascii") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            logging.getLogger("qf.serve").error("No line of the audit: %s: %s", error, lines)
