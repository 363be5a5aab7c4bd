"""The sequences that are answered together: their keys and values, and the facts of each.

A sequence joins when it comes and leaves when it is done (continuous batching: Yu et al. 2022,
Orca). All are aligned on the right, with padding in front of the shorter ones:

    keys, values  (B, H, L, d) per layer        mask  (B, L), 0 in the padding

Each has the rows of its own facts (`qf.recall.acting`), chosen when its prompt was read, so that
what is taught or forgotten later does not reach it. Knows a Transformers model; no requests.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from qf.errors import ModelError
from qf.families import Family
from qf.families.placement import device_of
from qf.method.readout import Readout
from qf.recall import Asked, Reading, Recall, acting

Pair = tuple[Tensor, Tensor]  # keys and values of a layer


class Batch:
    """Sequences in the order in which they joined; none at first.

    Raises ModelError: a model that keeps more of a sequence than keys and values.
    """

    def __init__(self, transformer: Any, family: Family, layer: int, pad_id: int) -> None:
        kinds = getattr(transformer.config.get_text_config(), "layer_types", None) or ()
        if any(k == "linear_attention" or not k.endswith("attention") for k in kinds):
            raise ModelError(
                f"Layers of {family.name} carry a state from token to token, which sequences that"
                " are answered together cannot share: use `qf ask` or `qf chat`."
            )
        self._transformer, self._family, self._layer = transformer, family, layer
        self._pad_id = pad_id
        self._device = device_of(transformer.get_input_embeddings())
        takes = inspect.signature(transformer.forward).parameters
        self._positions = "position_ids" in takes
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._clear()

    def _clear(self) -> None:
        self._pairs: list[Pair] = []
        self._mask = torch.empty(0, 0, dtype=torch.long, device=self._device)
        self._readouts: list[Readout | None] = []

    def __len__(self) -> int:
        return len(self._readouts)

    def join(self, asked: Sequence[Asked], memories: Sequence[Sequence[Recall]]) -> Tensor:
        """Read prompts, each with the memories that it may call facts from: logits (new, V)."""
        longest = max(len(a.ids) for a in asked)
        short = [longest - len(a.ids) for a in asked]
        ids = [[self._pad_id] * n + list(a.ids) for n, a in zip(short, asked, strict=True)]
        mask = [[0] * n + [1] * len(a.ids) for n, a in zip(short, asked, strict=True)]
        gates = [recall.gate for recalls in memories for recall in recalls]
        reading = Reading(gates[0].layer, asked, longest, memories) if gates else None
        readouts: list[Readout | None] = [None] * len(asked)
        new = torch.tensor(mask, device=self._device)
        logits, pairs = self._pass(
            torch.tensor(ids, device=self._device), new, [], readouts, reading
        )
        if self._readouts:
            longest = max(self._mask.shape[1], longest)
            pairs = [
                (_stacked(k, new_k, longest, 2), _stacked(v, new_v, longest, 2))
                for (k, v), (new_k, new_v) in zip(self._pairs, pairs, strict=True)
            ]
            new = _stacked(self._mask, new, longest, 1)
        self._pairs, self._mask = pairs, new
        self._readouts += readouts
        return logits

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Read the next token of each sequence: logits (B, V)."""
        ids = torch.tensor(tokens, device=self._device)[:, None]
        self._mask = pad(self._mask, (0, 1), value=1)
        logits, self._pairs = self._pass(ids, self._mask, self._pairs, self._readouts, None)
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Let all other sequences go, and the padding that none of those left needs."""
        if not rows:
            self._clear()
        elif len(rows) < len(self):
            index = torch.tensor(rows, device=self._device)
            mask = self._mask[index]
            longest = int(mask.sum(1).max())
            self._mask = mask[:, -longest:]
            self._pairs = [
                (k[index.to(k.device), :, -longest:], v[index.to(v.device), :, -longest:])
                for k, v in self._pairs
            ]
            self._readouts = [self._readouts[row] for row in rows]

    def _pass(
        self,
        ids: Tensor,
        mask: Tensor,
        pairs: list[Pair],
        readouts: list[Readout | None],
        reading: Reading | None,
    ) -> tuple[Tensor, list[Pair]]:
        """One pass over ids (B, T) that come after `pairs`: logits (B, V) of the last position."""
        # Every layer keeps all of its keys: a sliding window is in the model's own mask.
        cache = DynamicCache(pairs) if pairs else DynamicCache()
        more: dict[str, Any] = dict(self._last_only)
        if self._positions:
            more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        hooked = acting(self._transformer, self._family, self._layer, readouts, reading)
        with torch.inference_mode(), hooked:
            found = self._transformer(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more
            )
        return found.logits[:, -1], [(layer.keys, layer.values) for layer in cache.layers]


def _stacked(above: Tensor, below: Tensor, length: int, dim: int) -> Tensor:
    """Two parts of a batch, one below the other, zeros in front up to `length` along `dim`."""

    def filled(x: Tensor) -> Tensor:
        behind = (0, 0) * (x.ndim - 1 - dim)
        return pad(x, (*behind, length - x.shape[dim], 0))

    return torch.cat([filled(above), filled(below)])
