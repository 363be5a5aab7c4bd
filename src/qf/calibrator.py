"""What is measured once about a model before it learns: what to protect, and how to gate.

Forward passes over built-in questions give C, what ordinary traffic looks like in the taught layer
(`qf.method.calibrate`), and the gate, what tells one question from another (`qf.method.gate`). Each
is brought along by the model, or found in the user's cache, or measured when first asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from qf.calibration import BROUGHT, BROUGHT_GATE, cached, key_of, read, read_gate, write, write_gate
from qf.chat import PLAIN_CHAT, ChatOptions, messages, prompt_with_span
from qf.errors import ModelError
from qf.families import Family
from qf.families.placement import device_of
from qf.lesson import align
from qf.method.calibrate import Traffic, everyday, keys_of, traffic_of
from qf.method.gate import DIRECTIONS, FLOOR, MISSED, PRINCIPAL, Gate, confused, fit
from qf.method.passes import pooled
from qf.paraphrases import Paraphrases, paraphrases, source

TOKENS = 24  # of an answer that are looked at
LARGE = 200_000_000  # parameters from which fewer questions will do
LARGE_QUESTIONS, LARGE_RELATIONS = 120, 40
LAYERS = 6  # that the gate chooses from, spread evenly up to the taught one
GATE = f"discriminants {DIRECTIONS} {PRINCIPAL} {FLOOR} {MISSED}"  # how a gate is made


@dataclass
class Calibrator:
    """The calibrations of one model at one layer under one serving prompt.

    `ask` answers queries with the base weights, `digest` stands for model, layer and template.
    """

    transformer: Any
    tokenizer: Any
    family: Family
    layer: int
    system: str | None
    digest: str
    directory: str
    pad_id: int
    ask: Callable[[Sequence[str], int], list[str]]
    options: ChatOptions = PLAIN_CHAT
    _traffic: Traffic | None = None
    _gate: Gate | None = None

    def large(self) -> bool:
        """Whether the model is so large that fewer questions are asked."""
        return sum(p.numel() for p in self.transformer.parameters()) > LARGE

    def traffic(self) -> Traffic | None:
        """What to protect; None where it is not known and would take minutes to measure."""
        if self.known_traffic() is None and (not self.large() or self._device().type != "cpu"):
            self.measure_traffic()
        return self._traffic

    def known_traffic(self) -> Traffic | None:
        """What to protect, if it was measured before."""
        key = self._traffic_key() if self._traffic is None else ""
        for file in (Path(self.directory) / BROUGHT, cached(key)) if key else ():
            if (found := read(file, key)) is not None:
                self._traffic = found[1]
                break
        return self._traffic

    def gate(self) -> Gate:
        """The gate, measured now if it is not known."""
        return self.known_gate() or self.measure_gate()

    def known_gate(self) -> Gate | None:
        """The gate, if it was measured before."""
        key = self._gate_key() if self._gate is None else ""
        for file in (Path(self.directory) / BROUGHT_GATE, cached(key)) if key else ():
            if (found := read_gate(file, key)) is not None:
                self._gate = found
                break
        return self._gate

    def measure_traffic(self, prompts: Sequence[str] = (), into: Path | None = None) -> Traffic:
        """Have the model answer everyday questions and `prompts`, and take their keys.

        Raises LessonError: a prompt that is empty or too long.
        """
        asked = [*self.everyday(), *prompts]
        answered = [
            align(self.tokenizer, self._closed(q), a, None, self._direct())
            for q, a in zip(asked, self.ask(asked, TOKENS), strict=True)
            if a
        ]
        if not answered:
            raise ModelError(
                "The model answers nothing to everyday questions: teach it with calibrate=False"
                " (--no-calibrate)."
            )
        where = self.transformer, self.family, self.layer
        self._traffic = traffic_of(keys_of(*where, answered, pad_id=self.pad_id))
        with suppress(OSError) if into is None else nullcontext():  # a cache can be without
            write(into or cached(self._traffic_key()), self._traffic_key(), self._traffic)
        return self._traffic

    def measure_gate(self, into: Path | None = None) -> Gate:
        """Find the layer, up to the taught one, whose activations tell questions apart best."""
        asked = self._paraphrases()
        spread = {round(i * self.layer / (LAYERS - 1)) for i in range(LAYERS)}
        layers = sorted(i for i in spread if not self.family.sharing(self.transformer, i))
        prompts = [
            prompt_with_span(self.tokenizer, self._closed(q), self._direct())
            for q in asked.questions
        ]
        found = pooled(self.transformer, self.family, layers, prompts)
        labels = asked.meanings, asked.relations
        gates = [fit(x, *labels, i) for i, x in zip(layers, found, strict=True)]
        relation = torch.tensor(asked.relations)
        mistaken = [confused(gate, x, relation) for gate, x in zip(gates, found, strict=True)]
        self._gate = gates[min(range(len(gates)), key=mistaken.__getitem__)]
        with suppress(OSError) if into is None else nullcontext():
            key = self._gate_key()
            write_gate(into or cached(key), key, self._gate)
        return self._gate

    def _closed(self, query: str) -> list[dict[str, str]]:
        return messages(query, self.system)

    def _direct(self) -> ChatOptions:
        """The tools as they are served; thoughts would only delay the answers."""
        return replace(self.options, thinking=False)

    def everyday(self) -> list[str]:
        """The built-in questions: all, or a third of them where each takes a while."""
        return everyday(LARGE_QUESTIONS if self.large() else None)

    def _paraphrases(self) -> Paraphrases:
        return paraphrases(LARGE_RELATIONS if self.large() else None)

    def _gate_key(self) -> str:
        made_from = source(LARGE_RELATIONS if self.large() else None)
        return key_of(self.digest, self.system, (*made_from, GATE, *self._tools()))

    def _traffic_key(self) -> str:
        return key_of(self.digest, self.system, (*self.everyday(), *self._tools()))

    def _tools(self) -> list[str]:
        return [json.dumps(tool, sort_keys=True) for tool in self.options.tools]

    def _device(self) -> torch.device:
        block = self.family.layer(self.transformer, self.layer)
        return device_of(self.family.projection(block))
