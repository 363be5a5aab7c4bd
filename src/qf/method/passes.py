"""QF-instruct and QF-update as one batched forward pass, cut off in layer i: activations -> rows.

Knows the model through its family, and what to learn as aligned tokens. Solves nothing.

    u  (T, D)  input of the output projection W (N, D) of layer i's MLP, at the T positions
               that predict the learned tokens; u' in the closed-book pass
    v  (T, N)  residual that enters the MLP at these positions; v' in the closed-book pass
    y  (T, N)  the layer's output W u + v
    r  (T, N)  y - y', what the closed-book output lacks

Where a family's layers do more to W u than to add v to it, y and r are what the family says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from qf.errors import ModelError
from qf.families import Family, placement
from qf.lesson import AlignedTokens, Significance
from qf.method.solve import project

# "auto" learns the tokens that the closed-book pass gives less than this.
AUTO_BELOW = 0.9
BLOCK = 64  # rows of logits that are held at a time: 20 MB in bfloat16 for 150,000 tokens


@dataclass(frozen=True)
class Recording:
    """One sequence in layer i at its T predicting positions; u and v are float32, y float64.

    y is computed from u, v and W, for the layer's own output is rounded to the model's precision
    and y - y' is a small difference; z, float64 too, is W u with its bias. `probability` of the
    learned tokens and `argmax`, both (T,), are there when the pass went on to the top.
    """

    u: Tensor
    v: Tensor
    z: Tensor
    y: Tensor
    probability: Tensor | None = None
    argmax: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """What a lesson constrains: keys u' (n, D), deltas r (n, N), significance (n,), all float32.

    `outputs` (n, N) are the open-book y, what W u' + v' + r comes to. `tokens` are the ids of the n
    tokens. `open_book_agrees` tells whether the open-book pass itself would have produced every
    one of them; None when the pass was cut off.
    """

    keys: Tensor
    deltas: Tensor
    significance: Tensor
    outputs: Tensor
    tokens: tuple[int, ...]
    open_book_agrees: bool | None = None

    @property
    def learned_tokens(self) -> tuple[int, ...]:
        """The tokens that are not left free."""
        kept = zip(self.tokens, self.significance.tolist(), strict=True)
        return tuple(token for token, s in kept if s > 0)


class _CutOff(Exception):  # noqa: N818 - no error: layer i has given what was asked of it
    """Ends a forward pass in layer i."""


def record(
    model: Any,
    family: Family,
    layer: int,
    sequences: Sequence[AlignedTokens],
    *,
    pad_id: int,
    logits: bool = False,
) -> list[Recording]:
    """Run all sequences through the model as one batch and record layer `layer` of each.

    The pass ends in the layer, once u and v are known, or, with `logits`, at the top of the model.
    The sequences are packed one behind the other, each seeing itself only: the batch changes
    nothing beyond rounding, and nothing is spent on padding, so that `pad_id` has no effect.
    Attention takes memory for the square of the whole length: some ten lessons at a time are
    plenty. A family that cannot pack has each run alone, and so have sequences with something
    extra. Only the recorded positions are kept.

    Raises ModelError: no such layer, a W that is no linear layer, or activations that are not
    finite.
    """
    assert sequences
    alone = not family.packed or any(s.extra for s in sequences)
    if alone and len(sequences) > 1:
        return [
            record(model, family, layer, [s], pad_id=pad_id, logits=logits)[0] for s in sequences
        ]
    block = family.layer(model, layer)
    W = family.projection(block)
    where = _places(sequences)
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        with _hooked(block, family, where, found, cut_off=not logits):
            top = _forward(model, family, [s.input_ids for s in sequences], sequences[0].extra)
        u, v = found["u"], found["v"]
        _check_finite(model, f"Layer {layer}", u, v)
        z = _given(family, W, u, found["raw"])
        y = family.output(block, z, v.to(z.device))
        counts = [len(s.learned) for s in sequences]
        parts: list[tuple[Tensor, ...]] = [x.split(counts) for x in (u, v, z, y)]
        if logits:
            assert top is not None
            _check_finite(model, "The last layer", _at(top, where))
            learned = torch.tensor([token for s in sequences for token in s.learned])
            predicted = _predictions(model, family, _at(top, where), learned)
            parts += [p.split(counts) for p in predicted]
    return [Recording(*part) for part in zip(*parts, strict=True)]


def _given(family: Family, W: nn.Module, u: Tensor, raw: Tensor) -> Tensor:
    """Return z (T, N) in float64; `raw` is what the projection was given, at the rows of u.

    Where W is no matrix of numbers, z is what the projection makes of u: its own rounding is then
    part of what it is.
    """
    with family.at_hand(W) as values:
        if values is None:
            forward: Any = W.forward  # not W itself, whose hooks are those of a pass
            return forward(raw[None])[0].double()
        z = project(values, u)
        if isinstance(W.bias, Tensor):
            z += placement.values(W.bias).to(z)
        return z


def rows(
    model: Any,
    family: Family,
    layer: int,
    instruct: AlignedTokens,
    update: AlignedTokens,
    significance: Significance,
    *,
    pad_id: int,
    free: bool = False,
    logits: bool = False,
) -> Rows:
    """Return the rows of one lesson: `rows_batch` of a single pair."""
    return rows_batch(
        model,
        family,
        layer,
        [(instruct, update)],
        [significance],
        pad_id=pad_id,
        free=free,
        logits=logits,
    )[0]


def rows_batch(
    model: Any,
    family: Family,
    layer: int,
    pairs: Sequence[tuple[AlignedTokens, AlignedTokens]],
    significances: Sequence[Significance],
    *,
    pad_id: int,
    free: bool = False,
    logits: bool = False,
) -> list[Rows]:
    """Return the rows of each pair (instruct, update) of sequences, recorded in one batch.

    Rows of significance 0 are dropped, unless `free` rows are wanted too. "auto" keeps the tokens
    to which the closed-book pass gives a probability below AUTO_BELOW, which may be none. It needs
    the pass to go on to the top, as `logits` asks for; else, with None or a list, whose weights the
    sequences carry, the pass ends in `layer`.

    Raises ModelError as `record` does.
    """
    assert len(pairs) == len(significances)
    logits = logits or any(s == "auto" for s in significances)
    sequences = [sequence for pair in pairs for sequence in pair]
    recordings = record(model, family, layer, sequences, pad_id=pad_id, logits=logits)
    opened, closed = recordings[::2], recordings[1::2]
    return [
        _rows(family, family.layer(model, layer), update, significance, o, c, free)
        for (_, update), significance, o, c in zip(
            pairs, significances, opened, closed, strict=True
        )
    ]


def still_needed(
    model: Any,
    family: Family,
    layer: int,
    sequences: Sequence[AlignedTokens],
    *,
    pad_id: int,
) -> list[AlignedTokens]:
    """The sequences with weight 0 where the model, as it is now, gives the learned token anyway.

    "Anyway" means a probability of AUTO_BELOW or more. Raises ModelError as `record` does.
    """
    recordings = record(model, family, layer, sequences, pad_id=pad_id, logits=True)
    needed = []
    for sequence, seen in zip(sequences, recordings, strict=True):
        assert seen.probability is not None
        short = (seen.probability < AUTO_BELOW).tolist()
        weights = tuple(w * s for w, s in zip(sequence.weights, short, strict=True))
        needed.append(replace(sequence, weights=weights))
    return needed


def pooled(
    model: Any,
    family: Family,
    layers: Sequence[int],
    prompts: Sequence[tuple[Sequence[int], tuple[int, int]]],
) -> list[Tensor]:
    """The mean of u over a span [from, to) of each of m prompts: (m, D) for each layer, float32.

    The pass ends in the highest of the layers, whose D may differ. Prompts run in packs.
    """
    found: dict[int, list[Tensor]] = {i: [] for i in layers}
    top = max(layers)
    together = TOGETHER if family.packed else 1
    modules = {i: family.projection(family.layer(model, i)) for i in layers}
    for first in range(0, len(prompts), together):
        pack = prompts[first : first + together]
        means: dict[int, Tensor] = {}
        spans, start = [], 0
        for ids, (begin, end) in pack:
            spans.append(slice(start + begin, start + end))
            start += len(ids)

        def hook(index: int, spans: list[slice] = spans, means: dict[int, Tensor] = means) -> Any:
            def at_projection(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                u = inputs[0].flatten(0, -2)
                mean = torch.stack([u[s].float().mean(0) for s in spans])
                means[index] = family.inputs(modules[index], mean).cpu()
                if index == top:
                    raise _CutOff

            return at_projection

        hooks = [m.register_forward_pre_hook(hook(i)) for i, m in modules.items()]
        try:
            with torch.no_grad():
                _forward(model, family, [ids for ids, _ in pack])
        finally:
            for handle in hooks:
                handle.remove()
        for i in layers:
            _check_finite(model, f"Layer {i}", means[i])
            found[i].append(means[i])
    return [torch.cat(found[i]) for i in layers]


TOGETHER = 16  # prompts in one pack


def _check_finite(model: Any, where: str, *activations: Tensor) -> None:
    """Raise ModelError where not all is a number; of float16 alone the range may be too small."""
    if all(bool(x.isfinite().all()) for x in activations):
        return
    remedy = "load the model in bfloat16 or float32 (--dtype)"
    if model.dtype != torch.float16:
        remedy = "its weights may be damaged, so load another copy of the model"
    raise ModelError(f"{where} gives activations that are not finite: {remedy}.")


def _rows(
    family: Family,
    block: nn.Module,
    update: AlignedTokens,
    significance: Significance,
    opened: Recording,
    closed: Recording,
    free: bool,
) -> Rows:
    assert opened.y.shape == closed.y.shape
    v = closed.v.to(closed.z.device)
    weights = torch.tensor(update.weights, dtype=torch.float32, device=closed.u.device)
    if significance == "auto":
        assert closed.probability is not None
        weights = (closed.probability < AUTO_BELOW).to(weights)
    learned = torch.tensor(update.learned, device=closed.u.device)
    used = (weights > 0) | free
    return Rows(
        keys=closed.u[used],
        deltas=family.missing(block, closed.z, v, opened.y)[used].float(),
        significance=weights[used],
        outputs=opened.y[used].float(),
        tokens=tuple(learned[used].tolist()),
        open_book_agrees=(
            None if opened.argmax is None else bool((opened.argmax == learned).all())
        ),
    )


@contextmanager
def _hooked(
    block: nn.Module,
    family: Family,
    where: Tensor,
    found: dict[str, Tensor],
    cut_off: bool,
) -> Iterator[None]:
    """Have `found` filled with u and v, and the pass ended when both are; always unhook.

    `raw` is u as this process gives it to W: in the model's precision, and perhaps a part of it.
    """
    W = family.projection(block)

    def at_residual(v: Tensor) -> None:
        found["v"] = _at(v, where)
        done()

    def at_projection(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raw = inputs[0].flatten(0, -2)[where.to(inputs[0].device)]
        found["raw"], found["u"] = raw, family.inputs(W, raw.float())
        done()

    def done() -> None:
        if cut_off and found.keys() == {"u", "v", "raw"}:
            raise _CutOff

    hooks = [
        *family.on_residual(block, at_residual),
        W.register_forward_pre_hook(at_projection),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _forward(
    model: Any,
    family: Family,
    sequences: Sequence[Sequence[int]],
    extra: Mapping[str, Tensor] | None = None,
) -> Tensor | None:
    """Run the decoder; return its top hidden states (1, L, N), or None when it was cut off.

    Positions that start again at 0, without an attention mask, are how Transformers is told that
    several sequences lie in one: each attends to itself only. One with something `extra` goes
    through all that the model has around its decoder, which then counts the positions itself.
    """
    decoder = family.decoder(model)
    device = placement.device_of(decoder.get_input_embeddings())
    ids = [token for s in sequences for token in s]
    positions = [t for s in sequences for t in range(len(s))]
    try:
        if extra:
            assert len(sequences) == 1
            return model.base_model(
                input_ids=torch.tensor([ids], device=device),
                **{name: x.to(device) for name, x in extra.items()},
                use_cache=False,
            ).last_hidden_state
        return decoder(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
        ).last_hidden_state
    except _CutOff:
        return None


def _places(sequences: Sequence[AlignedTokens]) -> Tensor:
    """Return where in the pack each recorded row lies."""
    places, first = [], 0
    for sequence in sequences:
        places += [first + t for t in sequence.positions]
        first += len(sequence.input_ids)
    return torch.tensor(places)


def _at(x: Tensor, where: Tensor) -> Tensor:
    """Copy the recorded rows of x: (1, L, any), or (L, any), to float32."""
    return x.flatten(0, -2)[where.to(x.device)].float()


def _predictions(model: Any, family: Family, top: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of `tokens` (T,) and the most probable ones, from states (T, N)."""
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(
            "The model has no vocabulary head: load it with one, or give the significance as None."
        )
    device = placement.device_of(head)
    dtype = head.weight.dtype if head.weight.is_floating_point() else model.dtype
    x, learned = top.to(device, dtype), tokens.to(device)
    chances, best = [], []
    for states, ids in zip(x.split(BLOCK), learned.split(BLOCK), strict=True):
        for z, token in zip(family.logits(model, states), ids, strict=True):  # z: (vocabulary,)
            chances.append(z.float().softmax(0)[token])
            best.append(z.argmax())
    return torch.stack(chances), torch.stack(best)
