"""A remembered fact as its model needs it: the lesson, its other wordings, and its rows.

Knows no model; rows that are on the disk are read when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from qf.cues import words
from qf.lesson import Lesson
from qf.memory import FactRows


class Stored:
    """The rows of a gated fact, which stay on the disk until they are asked for."""

    def __init__(self, count: int, read: Callable[[], FactRows]) -> None:
        self.count, self._read = count, read
        self.completed: FactRows | None = None  # where those on the disk cannot act as they are

    def rows(self) -> FactRows:
        """What is stored, or what was made of it so that it can act."""
        return self._read() if self.completed is None else self.completed


@dataclass(frozen=True)
class Remembered:
    """A fact as its model needs it: lesson, other wordings of the query, serving prompt, rows."""

    lesson: Lesson
    others: tuple[str, ...]
    system: str | None
    held: FactRows | Stored
    consolidated: bool = False

    @property
    def rows(self) -> FactRows:
        """The fact's rows, from the disk where they are not at hand."""
        return self.held if isinstance(self.held, FactRows) else self.held.rows()

    @property
    def count(self) -> int:
        """How many rows the fact has."""
        return len(self.held.keys) if isinstance(self.held, FactRows) else self.held.count

    @cached_property
    def asked(self) -> tuple[str | None, ...]:
        """What tells its query from others: the serving prompt, and the query's words."""
        return (self.system, *words(self.lesson.query))

    @property
    def wordings(self) -> tuple[str, ...]:
        """The query in all its wordings, as taught first."""
        return (self.lesson.query, *self.others)
