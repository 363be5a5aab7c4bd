"""What acts in a model now: a change of W, facts behind the gate, or nothing at all.

Holds the one lock that guards the weights. Knows no memory, and not where a change comes from.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from qf.method.forms import Form
from qf.method.solve import Update
from qf.recall import Recall


class Acting:
    """Lets one change of W act in a form; `recall` holds the facts that act behind the gate."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.lock = threading.RLock()
        self.recall: Recall | None = None
        self.learned: Any = None  # the change of W, as its form has it
        self._unlearned = 0  # how many blocks of `base` are open

    def beside(self) -> Acting:
        """The same weights and lock, with no facts behind the gate yet."""
        other = copy.copy(self)
        other.recall = None
        return other

    def recalling(self) -> Recall | None:
        """The facts that act behind the gate now; None inside of `base`, where none does."""
        return None if self._unlearned else self.recall

    def put(self, change: Update | None) -> None:
        """Let the base W and this change act."""
        self.put_back(None if change is None else self.form.of(change))

    def put_back(self, learned: Any) -> None:
        """Let a change act that did so before, as its form has it."""
        self.learned = learned
        self._show()

    @contextmanager
    def base(self) -> Iterator[None]:
        """Let nothing act inside, neither in W nor behind the gate."""
        with self.lock:
            self._unlearned += 1
            self._show()
            try:
                yield
            finally:
                self._unlearned -= 1
                self._show()

    @contextmanager
    def nothing_gated(self) -> Iterator[None]:
        """Let nothing act behind the gate inside, and W be whatever is put in place there."""
        learned, recall = self.learned, self.recall
        self.recall = None
        try:
            yield
        finally:
            self.recall = recall
            self.put_back(learned)

    def _show(self) -> None:
        self.form.show(None if self._unlearned else self.learned)
