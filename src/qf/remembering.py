"""Keeps what acts in a model in step with its memory: W' = W + ΔW(rows of all remembered facts).

Consolidated facts act in W, and all facts where the solver is not "gated"; the others act behind
the gate. Knows how rows are brought about (qf.recording), not why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from qf.asking import Asking
from qf.errors import MemoryFault
from qf.lesson import Lesson
from qf.memory import Fact, FactRows, Memory
from qf.method.readout import Recorded
from qf.method.solve import Update
from qf.picture import Picture
from qf.processes import Led
from qf.recall import Found, Recall
from qf.recording import Recording
from qf.remembered import Remembered, Stored
from qf.solving import Solver

_NEVER = -1  # no version that a memory has


@dataclass
class Remembering:
    """The facts of one memory, as they act in one model.

    `all_gated`: consolidated facts act behind the gate as well. `led` has what is chosen or written
    done by the first of the processes that share a sharded model.
    """

    memory: Memory
    asking: Asking
    solver: Solver
    recording: Recording
    led: Led
    all_gated: bool = False
    facts: dict[str, Remembered] = field(default_factory=dict)
    _seen: int = _NEVER

    # In step with the memory

    def refresh(self) -> None:
        """Follow what any process wrote into the memory since the last look."""
        version = self._version()
        if version != self._seen:
            remembered = {f.id: self._known(f) for f in self.memory.facts()}
            self.install(remembered)
            self.facts, self._seen = remembered, version

    def try_refresh(self) -> None:
        """Follow the memory unless rows in it are damaged, which then the first use of them tells.

        So facts can be listed and forgotten, the damaged one among them.
        """
        try:
            self.refresh()
        except MemoryFault:
            self._seen = _NEVER

    def to_change(self) -> None:
        """Take the writer's lock, as `Memory.writable` does, and follow the memory."""

        def take() -> None:
            self.memory.writable()

        self.led(take)
        self.refresh()

    def forget(self, fact_id: str) -> Fact:
        """Forget one fact, by its id or the beginning of it."""
        fact = self.led(lambda: self.memory.forget(fact_id))
        self.try_refresh()
        return fact

    def forget_all(self) -> int:
        """Forget everything; returns how many facts went."""
        forgotten = self.led(self.memory.clear)
        self.adopt({})
        self.install(self.facts)
        return forgotten

    def adopt(self, remembered: dict[str, Remembered]) -> None:
        """Take these, which act and are in the memory, for what it holds now."""
        self.facts, self._seen = remembered, self._version()

    def selected(self, names: Sequence[str]) -> dict[str, Fact]:
        """The facts of these ids, or of beginnings of them; all, where none is named."""
        self.refresh()
        facts = [self.memory.get(n) for n in names] if names else self.memory.facts()
        if not facts:
            raise MemoryFault(
                f"The memory {self.memory.directory} is empty: teach a fact with `qf learn` first."
            )
        return {f.id: f for f in facts}

    def without(
        self, asked: set[tuple[str | None, ...]]
    ) -> tuple[dict[str, Remembered], list[Fact]]:
        """The facts of other queries than these, and those that they replace."""
        old = [k for k, r in self.facts.items() if r.asked in asked]
        replaced = [self.memory.get(k) for k in old]
        return {k: r for k, r in self.facts.items() if k not in old}, replaced

    def _version(self) -> int:
        """The memory's state, the same for all processes that share the model."""
        return self.led(lambda: self.memory.version)

    def _known(self, fact: Fact) -> Remembered:
        """A fact of the memory; one that acts behind the gate leaves its rows on the disk.

        What consolidated rows weigh may be settled anew by another process: they are read again.
        """
        known = self.facts.get(fact.id)
        same = known is not None and not known.consolidated and not fact.consolidated
        return known if known is not None and same else self.of(fact)

    def of(self, fact: Fact, rows: FactRows | None = None) -> Remembered:
        """A fact with its rows, which are read now, if they are to be in W and are not given."""
        image = Picture(fact.image, fact.image_sha256) if fact.image else None
        lesson = Lesson(fact.instruction, fact.query, fact.answer, fact.significance, image)
        stored = Stored(fact.rows, lambda: self.memory.read(fact))
        # A picture is not there to be shown again: what it taught in the weights stays in them.
        in_weights = fact.consolidated or (image is not None and fact.solver != "gated")
        known = Remembered(lesson, fact.rewordings, fact.system, stored, in_weights)
        return replace(known, held=rows or known.rows) if self._in_weights(known) else known

    # What acts

    def install(self, remembered: Mapping[str, Remembered]) -> None:
        """Make the model that of the base weights and the remembered facts."""
        self.asking.acting.put(self.change_of(remembered))
        self.gate(remembered)

    def change_of(self, remembered: Mapping[str, Remembered]) -> Update | None:
        """ΔW of those of the facts that act in W."""
        return self.solver.solve([r.rows for r in remembered.values() if self._in_weights(r)])

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Make the model what it was before the block, where that fails; solves nothing then."""
        learned = self.asking.acting.learned
        try:
            yield
        except BaseException:
            self.put_back(learned)
            raise

    def put_back(self, learned: object) -> None:
        """Make the model what it was before a change; solves nothing, and takes no memory."""
        self.asking.acting.put_back(learned)
        self.gate(self.facts)

    def gate(self, remembered: Mapping[str, Remembered]) -> None:
        """Let those of the facts act behind the gate that are not in W, and no others."""
        if not self.solver.gated:
            return
        acting = self.asking.acting
        gated = {k: r for k, r in remembered.items() if not self._in_weights(r)}
        if acting.recall is None and gated:
            with acting.base():
                acting.recall = Recall(self.recording.calibrator.gate())
        if acting.recall is None:
            return
        for name in acting.recall.names():
            if name not in gated or not acting.recall.holds(name, gated[name]):
                acting.recall.remove(name)
        for name, fact in gated.items():
            if not acting.recall.holds(name, fact):
                self.let_act(acting.recall, name, fact)

    def let_act(self, recall: Recall, name: str, fact: Remembered) -> None:
        """Put a fact behind the gate, unless it has no rows."""
        if fact.count:
            told = fact.lesson.instruction, fact.lesson.answer
            recall.add(name, fact.wordings, lambda: self._found(fact), told=told, origin=fact)

    def _found(self, fact: Remembered) -> Found:
        """What the gate needs of a fact that it looks at."""
        rows, layer = fact.rows, self.recording.calibrator.gate().layer
        if rows.outputs is None or rows.pooled is None:
            made = self.recording.gated(fact).rows
        elif rows.pooled_layer != layer:
            made = replace(rows, pooled=self.recording.measured(fact), pooled_layer=layer)
        else:
            made = rows
        if made is not rows and isinstance(fact.held, Stored):
            fact.held.completed = made
        assert made.outputs is not None and made.pooled is not None
        return Found(made.pooled, Recorded(made.keys, made.outputs, made.significance))

    def _in_weights(self, fact: Remembered) -> bool:
        return not self.solver.gated or (fact.consolidated and not self.all_gated)
