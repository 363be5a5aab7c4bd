"""A line for every learn and forget: who, when, where, which fact; never what it says.

What was forgotten is to be gone, so that the lines name ids alone.
"""

from __future__ import annotations

import json
import logging
import threading
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
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "action": action,
            "space": space,
            "fact": fact,
            "key": caller,
            "request": request,
        }
        try:
            with self._lock, self._file.open("a", encoding="ascii") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            logging.getLogger("qf.serve").error("No line of the audit: %s: %s", error, line)
