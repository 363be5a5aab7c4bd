"""Gated memory at work: each question is answered with the facts that it calls to mind.

While an answer is generated, hooks read each question's address on the way up and choose its facts
(qf.method.gate); layer i then gives at each position of the answer the output that the nearest of
their rows recorded (qf.method.readout). W stays as it is, facts cannot disturb what is not about
them, and thousands fit. Knows a model through its family; stores nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qf.cues import Cue, asked_for, cue_of, words
from qf.families import Family
from qf.families.placement import device_of
from qf.method.gate import TOGETHER, Gate
from qf.method.readout import Readout, Recorded

MENTIONED = 0.6
"""How much of what its wordings have in common a question must hold to be about a fact."""
MARGIN = 0.1
"""Facts whose cosine is this much below the best one's do not act beside it."""
RECENT = 256
"""So many facts' rows stay at hand once they were read."""


@dataclass(frozen=True)
class Asked:
    """A prompt's tokens, the query in it, and which of the tokens are the query's: [from, to).

    `extra` is what the model takes besides the tokens.
    """

    ids: tuple[int, ...]
    query: str
    span: tuple[int, int]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What is stored of a fact: the pooled activations (w, D) of its wordings, and its rows."""

    pooled: Tensor
    recorded: Recorded


Read = Callable[[], Found]
"""Brings what is stored of a fact, from the disk perhaps."""


@dataclass(frozen=True)
class Known:
    """A fact as the gate needs it: its subject's words, what it tells, and where the rest is."""

    cue: Cue
    tells: set[str]
    read: Read
    origin: object


class Recall:
    """The facts that act behind a gate. To find one costs nothing that grows with their number.

    A fact is looked at only when a question mentions its subject. Until then all of it but the
    words of its question stays where it is stored; afterwards its addresses stay at hand, and its
    rows as long as it is among the RECENT ones.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._facts: dict[str, Known] = {}
        self._mentions: dict[str, set[str]] = {}
        self._addresses: dict[str, Tensor] = {}
        self._recent: OrderedDict[str, Recorded] = OrderedDict()

    def __len__(self) -> int:
        return len(self._facts)

    def holds(self, name: str, origin: object) -> bool:
        """Whether the fact of this id acts, as it was added from this very object."""
        return name in self._facts and self._facts[name].origin is origin

    def names(self) -> list[str]:
        """The ids of the facts."""
        return list(self._facts)

    def add(
        self,
        name: str,
        wordings: Sequence[str],
        read: Read,
        *,
        told: Sequence[str] = (),
        origin: object = None,
    ) -> None:
        """Let a fact act: the wordings of its query, and what brings the rest of it.

        `told` are texts that tell the fact itself; `origin` is what `holds` knows it by.
        """
        assert name not in self._facts
        tells = set().union(*map(asked_for, wordings))
        self._facts[name] = Known(cue_of(wordings, told), tells, read, origin)
        for word in self._facts[name].cue.weights:
            self._mentions.setdefault(word, set()).add(name)

    def cue(self, name: str) -> Cue:
        """The words that a fact's subject is mentioned by."""
        return self._facts[name].cue

    def tells(self, name: str) -> set[str]:
        """Whether a fact tells who, where, when or how."""
        return self._facts[name].tells

    def addresses(self, name: str) -> Tensor:
        """The addresses (w, k) of a fact's wordings."""
        if name not in self._addresses:
            found = self._facts[name].read()
            self._addresses[name] = self.gate.address(found.pooled)
            self._keep(name, found.recorded)
        return self._addresses[name]

    def recorded(self, name: str) -> Recorded:
        """The rows of a fact."""
        if name not in self._recent:
            self._keep(name, self._facts[name].read().recorded)
        self._recent.move_to_end(name)
        return self._recent[name]

    def _keep(self, name: str, recorded: Recorded) -> None:
        self._recent[name] = recorded
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def remove(self, name: str) -> None:
        """Let a fact act no more."""
        for word in self._facts.pop(name).cue.weights:
            self._mentions[word].discard(name)
        self._addresses.pop(name, None)
        self._recent.pop(name, None)

    def prepare(self, queries: Iterable[str]) -> None:
        """Bring what is needed to tell which facts the queries call to mind."""
        for query in queries:
            for name in self.candidates(query):
                self.addresses(name)

    def candidates(self, query: str) -> list[str]:
        """The facts whose subject a query mentions, but for who where the query asks for when."""
        said, wanted = set(words(query)), asked_for(query)

        def fits(known: Known) -> bool:
            asks_alike = not wanted or not known.tells or wanted & known.tells
            return bool(asks_alike) and known.cue.mentioned(query) >= MENTIONED

        held = {name for word in said for name in self._mentions.get(word, ())}
        return sorted(n for n in held if fits(self._facts[n]))

    def cosines(self, query: str, pooled: Tensor) -> dict[str, float]:
        """How near each fact whose subject a query mentions is to it, by its pooled (D,)."""
        names = self.candidates(query)
        if not names:
            return {}
        address = self.gate.address(pooled[None].cpu())[0]
        return {n: float((self.addresses(n) @ address).max()) for n in names}

    def chosen(self, query: str, pooled: Tensor) -> list[str]:
        """The ids of the facts that a query calls to mind, by its pooled activations (D,)."""
        return [name for _, name in called_to_mind([self], query, pooled)]

    def acting(
        self, model: Any, family: Family, layer: int, asked: Sequence[Asked], longest: int
    ) -> AbstractContextManager[None]:
        """Let the facts act on the batch of prompts, padded on the left to `longest`, inside."""
        reading = Reading(self.gate.layer, asked, longest, [[self]] * len(asked))
        return acting(model, family, layer, [None] * len(asked), reading)


def called_to_mind(
    recalls: Sequence[Recall], query: str, pooled: Tensor
) -> list[tuple[Recall, str]]:
    """The facts of several memories that a query calls to mind together, the nearest first."""
    cosines = [(c, r, n) for r in recalls for n, c in r.cosines(query, pooled).items()]
    if not cosines:
        return []
    least = max(recalls[0].gate.threshold, max(c for c, _, _ in cosines) - MARGIN)
    passing = [found for found in cosines if found[0] >= least]
    return [(r, n) for _, r, n in sorted(passing, key=lambda f: -f[0])[:TOGETHER]]


def readout(
    recalls: Sequence[Recall], query: str, pooled: Tensor, device: torch.device
) -> Readout | None:
    """The rows of the facts that a query calls to mind, for one answer; None where it calls none.

    Where two memories were taught the same question, the answer of the first is read.
    """
    found = called_to_mind(recalls, query, pooled)
    if not found:
        return None
    found.sort(key=lambda f: (recalls.index(f[0]), f[1]))
    return Readout([recall.recorded(name) for recall, name in found], device)


@dataclass(frozen=True)
class Reading:
    """Prompts that the next pass reads, padded on the left to `longest`, each with its memories.

    The facts of a prompt are chosen by its activations in the layer `gate_layer`.
    """

    gate_layer: int
    asked: Sequence[Asked]
    longest: int
    memories: Sequence[Sequence[Recall]]


@contextmanager
def acting(
    model: Any,
    family: Family,
    layer: int,
    readouts: list[Readout | None],
    reading: Reading | None = None,
) -> Iterator[None]:
    """Let `readouts[i]` act on the i-th sequence of a batch inside; None changes nothing there.

    They act on the last position of each pass: the end of the prompt, then one token at a time.
    With a `reading`, the first pass fills in `readouts` on its way up.
    """
    seen: dict[str, Tensor] = {}
    unread = reading is not None

    def rows_of(x: Tensor) -> Tensor:
        return x.reshape(len(readouts), -1, x.shape[-1])  # (batch, L, any), however it came

    def on_the_way_up(_: Any, inputs: tuple[Tensor, ...]) -> None:
        nonlocal unread
        if not unread:
            return
        assert reading is not None
        u, unread = rows_of(inputs[0]), False
        for row, (a, recalls) in enumerate(zip(reading.asked, reading.memories, strict=True)):
            shift = reading.longest - len(a.ids)
            part = u[row, shift + a.span[0] : shift + a.span[1]].float().mean(0)
            readouts[row] = readout(recalls, a.query, family.inputs(below, part), device)

    def at_projection(_: Any, inputs: tuple[Tensor, ...]) -> None:
        seen["u"] = family.inputs(W, rows_of(inputs[0])[:, -1].float()).to(device)

    def above_the_layer(_m: Any, _i: Any, outputs: Any) -> Any:
        in_use = [(row, r) for row, r in enumerate(readouts) if r is not None]
        if not in_use:
            return None
        alone = isinstance(outputs, Tensor)
        y = (outputs if alone else outputs[0]).clone(memory_format=torch.contiguous_format)
        last = rows_of(y)[:, -1]
        for row, r in in_use:
            own = last[row].to(device).float() / scale
            last[row] = (scale * r.output(seen["u"][row], own)).to(y)
        return y if alone else (y, *outputs[1:])

    block = family.layer(model, layer)
    W, scale = family.projection(block), family.scale(block)
    device = device_of(W)  # whatever the layer of the gate runs on
    hooks = [
        W.register_forward_pre_hook(at_projection),
        block.register_forward_hook(above_the_layer),
    ]
    if reading is not None:
        below = family.projection(family.layer(model, reading.gate_layer))
        hooks.insert(0, below.register_forward_pre_hook(on_the_way_up))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
