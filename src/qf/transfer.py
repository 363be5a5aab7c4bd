"""What was learned leaves a model, and comes in again; how files are written is qf.export's.

Facts leave in W, as an adapter or a checkpoint, if they are answered there; or with their rows, as
they act behind the gate. Memory and weights stay as they are, but for an import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from qf.asking import Asking
from qf.balancing import balanced
from qf.consolidate import solved
from qf.errors import LessonError, MemoryFault, ModelError
from qf.export import (
    Exported,
    Imported,
    compressed,
    parts,
    read_facts,
    whole_directory,
    write_adapter,
    write_facts,
    write_gated,
    write_manifest,
)
from qf.memory import Fact, FactRows
from qf.method.forms import acting, form_of
from qf.method.solve import Update
from qf.qf_memory import fingerprint
from qf.recall import Recall
from qf.recording import Recording
from qf.remembered import Remembered
from qf.remembering import Remembering
from qf.solving import Solver

SHOWN = 5  # so many facts are named in one sentence


@dataclass(frozen=True)
class Leaving:
    """Facts in one change of W: how many rows are whose, and what it does not do."""

    update: Update
    facts: list[Fact]
    counts: list[int]
    left_out: list[Fact]
    unverified: list[Fact]


@dataclass
class Transfer:
    """Exports and imports of one model; each method is described by `Model`'s of its name."""

    asking: Asking
    solver: Solver
    recording: Recording
    remembering: Remembering
    projection: torch.nn.Module

    def export_lora(
        self, directory: Path, facts: Sequence[str], each: bool, max_rank: int | None, force: bool
    ) -> Exported:
        """Write ΔW as one adapter, or as one of each fact."""
        left = self._leaving(facts, max_rank)
        changes, names = [left.update], [""]
        if each:
            changes, names = parts(left.update, left.counts), [f.id for f in left.facts]
        where, base = self._name(self.projection), self._source()
        by_parameter = self.asking.family.by_parameter
        with whole_directory(directory, force) as new:
            named = [  # what the model says anyway needs no adapter
                write_adapter(new / n, u, where, base, by_parameter=by_parameter)
                for n, u in zip(names, changes, strict=True)
                if u.rank
            ]
            write_manifest(new, "lora", self.remembering.memory.binding, left.facts)
        rank = max(u.rank for u in changes)
        name = "" if each else named[0]
        return Exported(directory, left.facts, left.left_out, left.unverified, rank, name)

    def check_mergeable(self) -> None:
        """Raise ModelError where W cannot be written."""
        model = self.asking.loaded.transformer
        if why := self.asking.family.unwritable(model, self.projection):
            raise ModelError(
                f"The weights are {why}, so that nothing can be merged into them: export an adapter"
                " (--lora), or load the model whole."
            )

    def save_merged(self, directory: Path, facts: Sequence[str], force: bool) -> Exported:
        """Write the whole model with W + ΔW."""
        left, now, loaded = self._leaving(facts), self.asking.acting, self.asking.loaded
        form = now.form  # where that is merged, it alone knows the base
        if form.name != "merged":
            form = form_of(self.asking.family, loaded.transformer, self.projection, "merged")
        with now.nothing_gated(), whole_directory(directory, force) as new:
            now.put(None)
            with acting(form, left.update):
                loaded.transformer.save_pretrained(new)
            if loaded.processor is not None:
                loaded.processor.save_pretrained(new)
            loaded.tokenizer.save_pretrained(new)
            write_manifest(new, "merged", self.remembering.memory.binding, left.facts)
        return Exported(directory, left.facts, left.left_out, left.unverified)

    def export_gated(self, file: Path, facts: Sequence[str], force: bool) -> Exported:
        """Write facts with their gate."""
        chosen = self.remembering.selected(facts)
        with self.asking.acting.base():
            recall = Recall(self.recording.calibrator.gate())
        for k in chosen:
            gated = self.recording.gated(self.remembering.facts[k])
            if not gated.consolidated:
                self.remembering.let_act(recall, k, gated)
        names = set(recall.names())
        held = [f for k, f in chosen.items() if k in names]
        if not held:
            raise ModelError("None of the facts has rows that could act: teach them again.")
        modules, loaded = self._modules(recall.gate.layer), self.asking.loaded
        family, layer = self.asking.family, self.asking.layer
        scale = family.scale(family.layer(loaded.transformer, layer))
        told_by = fingerprint(loaded.transformer, loaded.tokenizer, modules["inner"])
        binding = self.remembering.memory.binding
        name = write_gated(file, held, recall, modules, scale, told_by, binding, force)
        left_out = [f for k, f in chosen.items() if k not in names]
        return Exported(file, held, left_out, name=name)

    def export_facts(self, file: Path, facts: Sequence[str], force: bool) -> Exported:
        """Write facts with their rows."""
        memory = self.remembering.memory
        found = memory.rows(self.remembering.selected(facts))
        name = write_facts(file, memory.binding, found, force)
        return Exported(file, [f for f, _ in found], name=name)

    def import_facts(self, file: Path, check: Callable[[Imported], None]) -> Imported:
        """Remember the facts in a file, all or none, unless `check` refuses them."""
        mind = self.remembering
        mind.to_change()
        shape = self.asking.family.shape(self.projection)
        found = read_facts(file, mind.memory.binding, shape)
        new = [(f, rows) for f, rows in found if f.id not in mind.facts]
        taught = {f.id: self._taught(file, f, rows) for f, rows in new}
        kept, replaced = mind.without({r.asked for r in taught.values()})
        skipped = [f for f, _ in found if f.id not in taught]
        coming = Imported([f for f, _ in new], replaced, skipped)
        check(coming)
        with mind.undone():
            mind.install({**kept, **taught})
            if new:
                old = [f.id for f in replaced]
                mind.led(lambda: mind.memory.add_all(new, replacing=old))
        mind.adopt({**kept, **taught})
        return coming

    def _taught(self, file: Path, fact: Fact, rows: FactRows) -> Remembered:
        """A fact of a file, once this model is seen to read it; raises MemoryFault."""
        try:
            known = self.remembering.of(fact, rows)
            self.recording.check(known)
        except (LessonError, ModelError) as error:
            raise MemoryFault(
                f"The file {file} holds a fact that this model cannot have been taught, {fact.id}"
                f" ({str(error).rstrip('.')}): write the file again without it."
            ) from error
        return known

    def _leaving(self, names: Sequence[str], max_rank: int | None = None) -> Leaving:
        """Facts solved into W as they are consolidated; memory and weights stay as they are."""
        facts, now = self.remembering.selected(names), self.asking.acting
        with now.nothing_gated():
            known = {k: self.remembering.facts[k] for k in facts}
            if self.solver.gated and not all(r.consolidated for r in known.values()):
                found = {k: solved(self.recording, r) for k, r in known.items()}
                known = balanced(found, self.recording, self._in_weights)
            chosen = [k for k, r in known.items() if r.count]
            while (update := self.solver.solve([known[k].rows for k in chosen])) is not None:
                now.put(update)
                holding = self.asking.holding(chosen, facts)
                if holding == chosen or not self.solver.gated:
                    break
                chosen = holding
            if update is None:
                raise ModelError(
                    f"None of the facts is answered from the weights ({_listed(facts)}): export"
                    " them with --gated, as they act now."
                )
            if not update.rank:
                raise ModelError(
                    "The model gives the answers of these facts anyway: there is no change of W to"
                    " export."
                )
            if max_rank is not None and max_rank < update.rank:
                update = compressed(update, max_rank)
                now.put(update)
                holding = self.asking.holding(chosen, facts)
        return Leaving(
            update,
            [facts[k] for k in chosen],
            [known[k].rows.changing for k in chosen],
            [f for k, f in facts.items() if k not in chosen],
            [facts[k] for k in chosen if k not in holding],
        )

    def _in_weights(self, known: Mapping[str, Remembered]) -> None:
        """Let these facts act in W, and the memory know nothing of it."""
        self.asking.acting.put(self.solver.solve([r.rows for r in known.values()]))

    def _modules(self, gate_layer: int) -> dict[str, str]:
        """The names of the modules that a gated file acts in, and is addressed by."""
        family, transformer = self.asking.family, self.asking.loaded.transformer
        block = family.layer(transformer, self.asking.layer)
        below = family.layer(transformer, gate_layer)
        return {
            "layer": self._name(block),
            "taught": self._name(self.projection),
            "gate": self._name(family.projection(below)),
            "inner": self._name(family.inner(block)),
        }

    def _name(self, module: torch.nn.Module) -> str:
        return next(n for n, m in self.asking.loaded.transformer.named_modules() if m is module)

    def _source(self) -> str:
        """Where others find the model: its directory, if it has one here, else its name."""
        loaded = self.asking.loaded
        here = Path(loaded.directory)
        return str(here.resolve()) if loaded.directory and here.is_dir() else loaded.name


def _listed(facts: Mapping[str, Fact]) -> str:
    """The first facts, by id and query, and how many more there are."""
    shown = [f"{k} {f.query!r}" for k, f in list(facts.items())[:SHOWN]]
    more = [f"{len(facts) - SHOWN} more"] if len(facts) > SHOWN else []
    return ", ".join(shown + more)
