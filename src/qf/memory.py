"""Remembered facts: their rows and where these came from, kept in one directory, all or nothing.

A fact is an index row and its tensors, written in one transaction, so one commit is one fact.
This module stores and returns. It knows nothing of models, weights or solving: the model that a
memory belongs to is a `Binding`, a digest with a name.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from qf.database import Database, revision
from qf.digest import digest_of
from qf.errors import MemoryFault

__all__ = ["Binding", "Fact", "FactRows", "Memory", "digest_of", "fact_of", "new_id"]

_SHOWN = 5  # facts that an error message lists
_POSITION = "(SELECT position FROM facts WHERE id = ?)"


@dataclass(frozen=True)
class Fact:
    """What was taught, and how: all that is remembered of a fact besides its rows."""

    id: str
    instruction: str
    query: str
    answer: str
    layer: int
    rows: int
    solver: str
    significance: list[float] | Literal["auto"] | None
    system: str | None  # the serving prompt that it was learned under
    tokens: tuple[int, ...]  # the learned tokens' ids
    verified: bool | None
    before: str  # closed-book answer before learning
    after: str  # and after
    seconds: float
    created: str  # ISO 8601, UTC
    note: str = ""
    rewordings: tuple[str, ...] = ()  # other wordings of the query that were learned with it
    consolidated: bool = False  # taught behind the gate, and solved into W since
    image: str = ""  # the name of the picture that was shown with the instruction
    image_sha256: str = ""  # of its file, or of its pixels where there was none

    @property
    def statement(self) -> str:
        """What it was told, for people to read: the instruction, and the picture by its name."""
        shown = f"[{self.image}]" if self.image else ""
        return " ".join(part for part in (self.instruction, shown) if part)

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as a dictionary that `json.dumps` takes."""
        lists = {"tokens": list(self.tokens), "rewordings": list(self.rewordings)}
        return {**asdict(self), **lists}


@dataclass(frozen=True)
class FactRows:
    """The rows of one fact: keys u' (n, D), deltas r (n, N), significance (n,), all float32.

    `outputs` (n, N) are the open-book y that the layer gives in their places where the fact acts
    behind a gate; None where it was solved into W. `pooled` (w, D) is what the gate finds the fact
    by, one vector per wording of the query, of the layer `pooled_layer`; None without a gate.
    """

    keys: Tensor
    deltas: Tensor
    significance: Tensor
    outputs: Tensor | None = None
    pooled: Tensor | None = None
    pooled_layer: int = -1

    def __post_init__(self) -> None:
        assert self.keys.ndim == self.deltas.ndim == 2 and self.significance.ndim == 1
        assert len(self.keys) == len(self.deltas) == len(self.significance)

    @property
    def changing(self) -> int:
        """How many of the rows ask for a change: what they take of W's columns, and of a rank."""
        return int((self.deltas.any(1) & (self.significance > 0)).sum())

    def tensors(self) -> dict[str, Tensor]:
        """All of it as named tensors, those that are None left out."""
        named = {"keys": self.keys, "deltas": self.deltas, "significance": self.significance}
        if self.outputs is not None:
            named["outputs"] = self.outputs
        if self.pooled is not None:
            named |= {"pooled": self.pooled, "pooled_layer": torch.tensor(self.pooled_layer)}
        return named

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> FactRows:
        """The rows that `tensors` gave; raises TypeError for other names."""
        named = dict(tensors)
        layer = int(named.pop("pooled_layer")) if "pooled_layer" in named else -1
        return cls(**named, pooled_layer=layer)


@dataclass(frozen=True)
class Binding:
    """The model that facts were taught to: digests decide, the rest is for people to read.

    `digest` is of the taught layer, `below` of a sample of what leads up to it, which formats up to
    5 did not know.
    """

    digest: str
    model: str
    layer: int
    architecture: str
    below: str = ""

    def fits(self, other: Binding) -> bool:
        """Whether facts of the one are facts of the other, as far as both say."""
        alike = self.below == other.below or not (self.below and other.below)
        return self.digest == other.digest and alike

    def renewed(self, held: Binding | None) -> Binding:
        """What facts bound to `held`, which fits, are bound to once this model adds some.

        What does not say what lies below may be another model's: its name has to be the same.
        """
        keep = held is not None and not held.below and held.model != self.model
        return held if held is not None and keep else self


@dataclass(frozen=True)
class Health:
    """The facts of a memory, the ids of those whose rows are damaged, and what SQLite says."""

    facts: list[Fact]
    damaged: list[str]
    complaints: list[str]


def new_id(taken: Iterable[str] = ()) -> str:
    """Return an id of 8 characters that sorts by time, in milliseconds, and is not in `taken`."""
    letters, known = "0123456789abcdefghjkmnpqrstvwxyz", set(taken)
    moment = int(time.time() * 1000) - 1_735_689_600_000  # since 2025-01-01; 40 bits are 34 years
    while True:
        name = "".join(letters[moment >> shift & 31] for shift in range(35, -1, -5))
        if name not in known:
            return name
        moment += 1


class Memory:
    """The remembered facts of one model in one directory: many readers, one writer.

    A change needs the writer's lock, which is taken by `open(..., write=True)`, by `writable()` or
    by the first change, and given back by `close()` or the end of the process, however it ends.
    Reading never needs the lock. Whatever goes wrong with the files is a `MemoryFault` whose
    message names the directory and the remedy; the facts stored so far stay as they were.

    >>> with Memory.open(Path("facts"), binding) as memory:  # doctest: +SKIP
    ...     memory.add(fact, rows)
    ...     [fact.answer for fact in memory.facts()]
    ['Oxinnovate was started by Qi.']
    """

    def __init__(self, directory: Path, binding: Binding) -> None:
        self.directory = directory
        self.binding = binding
        self._database = Database(directory)

    @classmethod
    def open(cls, directory: Path, binding: Binding, *, write: bool = False) -> Memory:
        """Return the memory in `directory`; one that does not exist yet is empty.

        Without `write`, nothing is created before the first change. With it, the writer's lock is
        held from now on. A memory without facts belongs to no model: its first fact binds it.

        Raises MemoryFault: bound to another model, damaged, not a memory, of a newer format, not a
        directory, no permission, or (`write`) in use by another writer.
        """
        memory = cls(Path(directory), binding)
        if write:
            return memory.writable()
        with memory._reading():
            return memory

    @staticmethod
    def bound_to(directory: Path) -> Binding | None:
        """Return the model that the facts in `directory` were taught to; None without facts.

        Raises MemoryFault as `open` does, but for the model that it is bound to.
        """
        database = Database(Path(directory))
        with database.reading() as connection:
            return _bound(database, connection)

    def writable(self) -> Memory:
        """Take the writer's lock, check once more that the memory is this model's; return self."""
        if self._database.lock():
            try:
                with self._reading():
                    pass
            except BaseException:
                self.close()
                raise
        return self

    def close(self) -> None:
        """Give back the writer's lock, if held; a later change takes it again."""
        self._database.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Reading

    def __len__(self) -> int:
        with self._reading() as database:
            return int(database.execute("SELECT count(*) FROM facts").fetchone()[0])

    @property
    def version(self) -> int:
        """A number that changes whenever any process changes the facts.

        Take it before `rows()`: a change in between then shows the next time.
        """
        with self._reading() as database:
            return revision(database)

    def facts(self) -> list[Fact]:
        """Return all facts in the order of teaching, without touching their tensors."""
        with self._reading() as database:
            return self._facts(database)

    def get(self, id_or_prefix: str) -> Fact:
        """Return the fact with this id, or the only one whose id begins so, else MemoryFault."""
        with self._reading() as database:
            return self._find(self._facts(database), id_or_prefix)

    def rows(self, ids: Iterable[str] | None = None) -> list[tuple[Fact, FactRows]]:
        """Return facts with their rows: all in the order of teaching, or those of `ids` in theirs.

        Raises MemoryFault for an unknown id, and for rows that are damaged (names the fact).
        """
        with self._reading() as database:
            facts = self._facts(database)
            if ids is not None:
                facts = [self._find(facts, name) for name in ids]
            return [(fact, self._rows(database, fact)) for fact in facts]

    def read(self, fact: Fact) -> FactRows:
        """Return the rows of one fact, without a look at the others.

        Raises MemoryFault: rows that are damaged, or gone since (names the fact).
        """
        with self._reading() as database:
            return self._rows(database, fact)

    def check(self) -> Health:
        """Read everything there is, and say what cannot be read; raises MemoryFault as `open`."""
        with self._reading() as database:
            complaints = [str(c) for (c,) in database.execute("PRAGMA integrity_check")]
            if complaints != ["ok"]:
                return Health([], [], complaints)
            facts, damaged = self._facts(database), []
            for fact in facts:
                try:
                    self._rows(database, fact)
                except MemoryFault:
                    damaged.append(fact.id)
        return Health(facts, damaged, [])

    # Changing: each is one transaction, on the disk when the call returns

    def add(self, fact: Fact, rows: FactRows, *, replacing: Iterable[str] = ()) -> None:
        """Remember a fact with its rows; the first one binds the memory to this model.

        The facts with the ids `replacing` go in the same transaction.

        Raises MemoryFault as `open` does, if the disk is full, and if the id is taken.
        """
        self.add_all([(fact, rows)], replacing=replacing)

    def add_all(
        self, facts: Sequence[tuple[Fact, FactRows]], *, replacing: Iterable[str] = ()
    ) -> None:
        """Remember several facts with their rows, all or none of them; else as `add`."""
        for fact, rows in facts:
            assert fact.rows == len(rows.keys), "a fact names the number of its rows"
        with self._writing() as database:
            for old in replacing:
                self._remove(database, old)
            bound = json.dumps(asdict(self.binding.renewed(_bound(self._database, database))))
            database.execute("INSERT OR REPLACE INTO meta VALUES ('binding', ?)", (bound,))
            for fact, rows in facts:
                self._insert(database, fact, _pack(rows))

    def update(self, *facts: tuple[Fact, FactRows]) -> None:
        """Replace what is remembered of the facts of these ids, and their rows, all at once."""
        for fact, rows in facts:
            assert fact.rows == len(rows.keys), "a fact names the number of its rows"
        self._all_there(self.facts(), facts)  # before anything is created
        with self._writing() as database:
            self._all_there(self._facts(database), facts)
            for fact, rows in facts:
                content, record = _pack(rows), _record(fact)
                database.execute("UPDATE facts SET record = ? WHERE id = ?", (record, fact.id))
                database.execute(
                    f"UPDATE tensors SET sha256 = ?, content = ? WHERE position = {_POSITION}",
                    (hashlib.sha256(content).hexdigest(), content, fact.id),
                )

    def forget(self, id_or_prefix: str) -> Fact:
        """Remove one fact with its rows; return what it was. Raises MemoryFault as `get` does."""
        with self._changing(id_or_prefix) as (database, fact):
            self._remove(database, fact.id)
        return fact

    def clear(self) -> int:
        """Remove all facts; return how many there were."""
        if len(self) == 0:
            return 0
        with self._writing() as database:
            database.execute("DELETE FROM tensors")
            return database.execute("DELETE FROM facts").rowcount

    # What the above is made of

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._database.reading() as database:
            self._check_binding(database)
            yield database

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self.writable()
        with self._database.writing() as database:
            self._check_binding(database)
            yield database

    @contextmanager
    def _changing(self, id_or_prefix: str) -> Iterator[tuple[sqlite3.Connection, Fact]]:
        self.get(id_or_prefix)  # what is not there is refused before anything is created
        with self._writing() as database:
            yield database, self._find(self._facts(database), id_or_prefix)

    def _check_binding(self, database: sqlite3.Connection) -> None:
        held, ours = _bound(self._database, database), self.binding
        if held is None or held.fits(ours):
            return
        remedy = "choose another with --memory or the right model with --model"
        changed = ""
        if held.model == ours.model and held.layer != ours.layer:
            remedy = f"give --layer {held.layer}, or choose another with --memory"
        elif held.model == ours.model:
            changed = ", and its weights or template have changed since"
        raise MemoryFault(
            f"The memory {self.directory} holds facts of {held.model} (layer {held.layer}), "
            f"not of {ours.model} (layer {ours.layer}){changed}; {remedy}."
        )

    def _insert(self, database: sqlite3.Connection, fact: Fact, content: bytes) -> None:
        if database.execute("SELECT 1 FROM facts WHERE id = ?", (fact.id,)).fetchone():
            raise MemoryFault(
                f"The memory {self.directory} already holds a fact {fact.id}; "
                f"forget it first with `qf forget {fact.id}`."
            )
        position = database.execute(
            "INSERT INTO facts (id, record) VALUES (?, ?)", (fact.id, _record(fact))
        ).lastrowid
        database.execute(
            "INSERT INTO tensors VALUES (?, ?, ?)",
            (position, hashlib.sha256(content).hexdigest(), content),
        )

    def _remove(self, database: sqlite3.Connection, fact_id: str) -> None:
        database.execute(f"DELETE FROM tensors WHERE position = {_POSITION}", (fact_id,))
        database.execute("DELETE FROM facts WHERE id = ?", (fact_id,))

    def _facts(self, database: sqlite3.Connection) -> list[Fact]:
        records = database.execute("SELECT record FROM facts ORDER BY position")
        try:
            fields = [json.loads(record) for (record,) in records]
            return [fact_of(field) for field in fields]
        except (KeyError, TypeError, ValueError) as error:
            raise self._database.damaged(error) from error

    def _all_there(self, held: list[Fact], wanted: Iterable[tuple[Fact, FactRows]]) -> None:
        """Raise MemoryFault where a fact is not among those that are held, by its whole id."""
        ids = {fact.id for fact in held}
        for fact, _ in wanted:
            if fact.id not in ids:
                self._find(held, fact.id)
                assert fact.id in ids, "an update keeps the id"

    def _find(self, facts: list[Fact], name: str) -> Fact:
        found = [fact for fact in facts if fact.id == name]
        found = found or [fact for fact in facts if name and fact.id.startswith(name)]
        if len(found) == 1:
            return found[0]
        if not facts:
            raise MemoryFault(f'There is no fact "{name}": the memory {self.directory} is empty.')
        if found:
            what = f'More than one fact begins with "{name}"; give more of its id'
        else:
            what = f'There is no fact "{name}" in the memory {self.directory}; choose from'
        shown = found or facts
        listed = ", ".join(f"{fact.id} ({_brief(fact)})" for fact in shown[-_SHOWN:])
        more = f", and {len(shown) - _SHOWN} earlier ones" if len(shown) > _SHOWN else ""
        raise MemoryFault(f"{what}: {listed}{more}.")

    def _rows(self, database: sqlite3.Connection, fact: Fact) -> FactRows:
        query = f"SELECT sha256, content FROM tensors WHERE position = {_POSITION}"
        try:
            checksum, content = database.execute(query, (fact.id,)).fetchone()
            if hashlib.sha256(content).hexdigest() != checksum:
                raise ValueError("the checksum differs")
            return FactRows.of(safetensors.torch.load(content))
        except (TypeError, ValueError, SafetensorError, sqlite3.DatabaseError) as error:
            raise MemoryFault(
                f"The rows of fact {fact.id} ({_brief(fact)}) in {self._database.file} are "
                f"damaged; remove it with `qf forget {fact.id}` and teach it again."
            ) from error


def _bound(database: Database, connection: sqlite3.Connection) -> Binding | None:
    """Return what the facts are bound to; without facts, whatever is written there is void."""
    found = connection.execute(
        "SELECT value FROM meta WHERE key = 'binding' AND EXISTS (SELECT 1 FROM facts)"
    ).fetchone()
    try:
        return found and Binding(**json.loads(found[0]))
    except (TypeError, ValueError) as error:
        raise database.damaged(error) from error


def _record(fact: Fact) -> str:
    return json.dumps(fact.as_dict())  # ASCII: carries any text, lone surrogates too


def fact_of(field: Any) -> Fact:
    """The fact that `as_dict` gave; raises ValueError, TypeError or KeyError for anything else."""
    if not isinstance(field, dict):
        raise ValueError("a record is an object")
    rewordings = field.get("rewordings", ())  # format 1 knew none
    return Fact(**{**field, "tokens": tuple(field["tokens"]), "rewordings": tuple(rewordings)})


def _pack(rows: FactRows) -> bytes:
    return safetensors.torch.save(
        {
            name: tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
            for name, tensor in rows.tensors().items()
        }
    )


def _brief(fact: Fact) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in fact.statement).split())
    return f'"{text}"' if len(text) <= 40 else f'"{text[:39]}…"'
