"""Spaces of facts: a model for each, all on one transformer, and one space that all read.

    DIR                  the space `default`: what `qf learn --memory DIR` teaches
    DIR/spaces/NAME      every other space, `shared` among them

All of it is called on the model's thread (`qf.serve.engine`), but for what only looks up names.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from qf.errors import MemoryFault
from qf.export import Imported
from qf.memory import Fact
from qf.model import Model
from qf.recall import Recall
from qf.serve.errors import APIError

DEFAULT, SHARED, BASE = "default", "shared", "base"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
UNDO_SECONDS = 600
UNDO_FACTS = 64  # forgotten facts of a space that can be brought back


@dataclass
class Space:
    """The facts of one space and the model that knows them."""

    name: str
    model: Model
    _forgotten: OrderedDict[str, tuple[float, bytes]] = field(default_factory=OrderedDict)

    def find(self, fact_id: str) -> Fact:
        """The fact of exactly this id. Raises APIError."""
        for fact in self.model.facts():
            if fact.id == fact_id:
                return fact
        raise _no_fact(fact_id, self.name)

    def forget(self, fact_id: str, undo: bool) -> Fact:
        """Forget a fact; with `undo`, keep its rows at hand for a while, in this process only."""
        fact = self.find(fact_id)
        kept = self.exported([fact.id]) if undo else None
        self.model.forget(fact.id)
        if kept is not None:
            self._forgotten[fact.id] = (time.monotonic() + UNDO_SECONDS, kept)
            while len(self._forgotten) > UNDO_FACTS:
                self._forgotten.popitem(last=False)
        self._expire()
        return fact

    def restore(self, fact_id: str, check: Callable[[Imported], None]) -> Imported:
        """Bring back a forgotten fact with the very rows that it had. Raises APIError.

        `check` is told of it, and of what it replaces, before anything is written.
        """
        self._expire()
        if fact_id not in self._forgotten:
            raise _no_fact(fact_id, self.name, "It was not forgotten here, or too long ago.")
        done = self.imported(self._forgotten[fact_id][1], check)
        del self._forgotten[fact_id]
        return done

    def exported(self, ids: Sequence[str]) -> bytes:
        """Facts with their rows, as `qf export --facts` writes them."""
        with tempfile.TemporaryDirectory(prefix="qf-") as scratch:
            file = Path(scratch) / "facts.qf"
            self.model.export_facts(file, ids)
            return file.read_bytes()

    def imported(self, content: bytes, check: Callable[[Imported], None]) -> Imported:
        """Remember the facts of a file, which `check` is told of before anything is written.

        Raises APIError for a file that holds no facts of this model.
        """
        with tempfile.TemporaryDirectory(prefix="qf-") as scratch:
            file = Path(scratch) / "facts.qf"
            file.write_bytes(content)
            try:
                return self.model.import_facts(file, check=check)
            except MemoryFault as error:
                told = str(error)
                if str(file) not in told:  # it is the memory that is at fault
                    raise
                told = told.replace(str(file), file.name)
                raise APIError(400, told, "invalid_file") from error

    def _expire(self) -> None:
        now = time.monotonic()
        for fact_id in [k for k, (until, _) in self._forgotten.items() if until < now]:
            del self._forgotten[fact_id]


class Spaces:
    """The spaces below one directory, opened as they are asked for."""

    def __init__(self, root: Model, directory: Path) -> None:
        self.root, self._directory = root, directory
        self._open: dict[str, Space] = {}
        with suppress(OSError):  # where it may not be made, there is nothing to lose
            directory.mkdir(parents=True, exist_ok=True)
        self._inode = _inode(directory)

    def check(self) -> None:
        """Raise MemoryFault where the directory is gone, or is another than at the beginning.

        Its spaces would look empty, or not there, and be made anew beside those that were taught.
        """
        if self._inode is not None and _inode(self._directory) != self._inode:
            raise MemoryFault(
                f"The memory {self._directory} is gone, or another was put in its place: put it"
                " back, or start the server again."
            )

    def names(self) -> list[str]:
        """All spaces, `default` first and `shared` last. Raises MemoryFault as `check` does."""
        self.check()
        below = self._directory / "spaces"
        there = {p.name for p in below.iterdir() if p.is_dir()} if below.is_dir() else set()
        others = {n for n in there | set(self._open) if NAME.fullmatch(n)}
        return [DEFAULT, *sorted(others - {DEFAULT, SHARED, BASE}), SHARED]

    def exists(self, name: str) -> bool:
        """Whether there is a space of this name. Raises MemoryFault as `check` does."""
        self.check()
        return (
            name in (DEFAULT, SHARED)
            or name in self._open
            or (bool(NAME.fullmatch(name)) and name != BASE and self._path(name).is_dir())
        )

    def get(self, name: str) -> Space:
        """A space, opened now if it is not yet. Raises APIError, or MemoryFault."""
        self.check()
        if name not in self._open:
            if not self.exists(name):
                raise APIError(
                    404, f"There is no space {name!r}.", "space_not_found", param="space"
                )
            self._open[name] = Space(name, self.root.beside(self._path(name)))
        return self._open[name]

    def create(self, name: str) -> Space:
        """A space, which is made if there is none. Raises APIError for a name that cannot be."""
        if name == BASE or not NAME.fullmatch(name):
            raise APIError(
                400,
                f"{name!r} is no name of a space: use up to 63 of a-z, 0-9, _ and -, not 'base'.",
                param="name",
            )
        if not self.exists(name):
            try:
                self._path(name).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise APIError(503, f"The space cannot be made ({error.strerror}).") from error
        return self.get(name)

    def memories(self, name: str) -> Callable[[Sequence[str]], list[Recall]]:
        """What answers in a space may call to mind: its own facts, then those that all read."""

        def now(queries: Sequence[str]) -> list[Recall]:
            if name == BASE:
                return []
            there = [n for n in dict.fromkeys((name, SHARED)) if self.exists(n)]
            own = [self.get(n).model.recalling(queries) for n in there]
            return [recall for recall in own if recall]

        return now

    def close(self) -> None:
        """Let go of all memories."""
        for space in self._open.values():
            space.model.close()
        self.root.close()

    def _path(self, name: str) -> Path:
        return self._directory if name == DEFAULT else self._directory / "spaces" / name


def _inode(directory: Path) -> int | None:
    """What tells a directory from others; its device would not, which changes with a mount."""
    try:
        return directory.stat().st_ino
    except OSError:
        return None


def _no_fact(fact_id: str, space: str, why: str = "List them with GET /v1/facts.") -> APIError:
    shown = fact_id if len(fact_id) <= 40 else f"{fact_id[:39]}…"
    message = f"There is no fact {shown!r} in the space {space!r}. {why}"
    return APIError(404, message, "fact_not_found", param="id")
