"""Facts that a model was taught by qf, acting behind their gate in plain Transformers.

This file stands alone: it needs torch, safetensors and a Transformers model, and no qf.

    from qf_memory import attach

    memory = attach(model, tokenizer, "facts.safetensors")
    model.generate(...)   # a conversation in the model's own chat template
    memory.detach()       # the model is what it was before

A question is the last user turn of each prompt. It calls facts to mind whose subject it mentions
and whose address lies near: the mean of u over its tokens, in directions that tell apart what is
asked for. While the answer is generated, layer i then gives at the last position the output y that
the nearest row of these facts recorded, whatever the layer makes it of.
Prompts are padded on the left, read in one piece and answered with a key-value cache, greedily or
by sampling; not by beams, and one call of `generate` at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from itertools import takewhile
from typing import Any

import safetensors
import torch
from torch import Tensor
from torch.nn import ModuleList
from torch.nn.functional import normalize

FORMAT = "qf gated memory 3"
READ = (FORMAT, "qf gated memory 2")  # the second names what is in the layer, not the layer
PIECES, PIECE = 8, 512  # how much of a weight its sample holds


def attach(model: Any, tokenizer: Any, path: str | os.PathLike[str]) -> GatedMemory:
    """Let the facts in a file act in a model until `detach()` of what is returned.

    Raises ValueError: no gated memory of qf, or one of another model or chat template.
    """
    with safetensors.safe_open(path, "pt") as file:
        told = file.metadata() or {}
        if told.get("format") not in READ:
            raise ValueError(f"{path} is no gated memory of qf: write one with `qf export --gated`")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    settings = json.loads(told["settings"])
    found, modules = model.config.name_or_path or type(model).__name__, settings["modules"]
    try:
        same = settings["fingerprint"] == fingerprint(model, tokenizer, modules["inner"])
        if same and settings.get("below"):  # older files do not say
            same = settings["below"] == below(model, modules["taught"])
    except AttributeError:  # no module of that name
        same = False
    if not same:
        raise ValueError(
            f"{path} holds facts of {settings['model']}, and {found} has other weights or another"
            " chat template: attach it to the model that was taught"
        )
    return GatedMemory(model, tokenizer, settings, tensors)


def fingerprint(model: Any, tokenizer: Any, inner: str) -> str:
    """Tell a model by one matrix, the same in float32 and bfloat16, and its chat template."""
    W = _values(model.get_submodule(inner)).to("cpu", torch.bfloat16).view(torch.uint8)
    digest = hashlib.sha256(W.contiguous().numpy().tobytes())
    digest.update((tokenizer.chat_template or "").encode())
    return digest.hexdigest()


def below(model: Any, taught: str) -> str:
    """Tell what a model computes up to the module `taught`, that aside: a sample of each weight.

    The same in float32 and bfloat16, and wherever the weights are kept.
    """
    path = taught.split(".")
    above = [".".join(path[:n]) for n in range(len(path))]
    depth = next(n for n, a in enumerate(above) if type(model.get_submodule(a)) is ModuleList)
    decoder, layers = (model.get_submodule(a) for a in above[depth - 1 : depth + 1])
    first = takewhile(lambda m: m is not layers, decoder.children())  # embeddings, their norm
    modules = [m for part in [*first, *layers[: int(path[depth]) + 1]] for m in part.modules()]
    W, digest = model.get_submodule(taught), hashlib.sha256()
    for module in modules:
        for name, weight in module.named_parameters(recurse=False) if module is not W else ():
            digest.update(f"{name} {[*weight.shape]}".encode() + _sample(module, name))
    return digest.hexdigest()


def _sample(module: Any, name: str) -> bytes:
    """Some pieces of a weight; none of it is brought to where it computes."""
    weight = getattr(module, name).detach()
    x, hook = weight, getattr(module, "_hf_hook", None)
    if weight.is_meta:
        maps = [getattr(h, "weights_map", None) for h in [hook, *getattr(hook, "hooks", ())]]
        x = next((m[name] for m in maps if m is not None), torch.empty(0))
    if hasattr(x, "full_tensor"):
        x = x.full_tensor()
    if type(x.data) is not Tensor:
        x = x.dequantize()
    flat = x.reshape(-1)
    last = max(len(flat) - PIECE, 0)
    pieces = [flat[last * i // (PIECES - 1) :][:PIECE] for i in range(PIECES)]
    sample = torch.cat(pieces).to(weight.dtype)
    if sample.is_floating_point():
        sample = sample.to(torch.bfloat16)
    return sample.cpu().view(torch.uint8).numpy().tobytes()


def _values(module: Any) -> Tensor:
    """The values of a weight, wherever it is kept: offloaded, sharded or quantised."""
    hook = getattr(module, "_hf_hook", None) if module.weight.is_meta else None
    if hook is not None:
        hook.pre_forward(module)  # Accelerate's, which brings them
    W = module.weight.detach()
    if hook is not None:
        hook.post_forward(module, None)
    if hasattr(W, "full_tensor"):
        return W.full_tensor()
    return W if type(W.data) is Tensor else W.dequantize()


WANTED = {
    "who": "who",
    "whom": "who",
    "whose": "who",
    "where": "where",
    "when": "when",
    "how": "how",
}


class GatedMemory:
    """The facts of one file at work in one model; see the top of this page."""

    def __init__(
        self, model: Any, tokenizer: Any, settings: dict[str, Any], tensors: dict[str, Tensor]
    ) -> None:
        self.tokenizer, self.settings, self.tensors = tokenizer, settings, tensors
        self.facts: list[dict[str, Any]] = settings["facts"]
        self.opening, self.closing = _around_query(tokenizer)
        self.asked: list[tuple[str, int, int] | None] | None = None
        self.acting: list[_Answer | None] = []
        self.u: Tensor | None = None
        named = settings["modules"]
        layer = named.get("layer") or re.sub(r"(.*\.\d+)\..*", r"\1", named["taught"])
        gate, taught = (model.get_submodule(named[k]) for k in ("gate", "taught"))
        self.hooks = [
            model.register_forward_pre_hook(self._at_the_start, with_kwargs=True),
            gate.register_forward_pre_hook(self._on_the_way_up),
            taught.register_forward_pre_hook(self._in_the_layer),
            model.get_submodule(layer).register_forward_hook(self._above_the_layer),
        ]

    def detach(self) -> None:
        """Take the facts out of the model again."""
        for hook in self.hooks:
            hook.remove()

    def chosen(self, query: str, pooled: Tensor) -> list[dict[str, Any]]:
        """The facts that a query calls to mind, by its pooled activations (D,)."""
        s, wanted = self.settings, _wanted(query)
        facts = [f for f in self.facts if _mentioned(f["cue"], query) >= s["mentioned"]]
        facts = [f for f in facts if not wanted or not f["tells"] or wanted & {*f["tells"]}]
        if not facts:
            return []
        address = self._address(pooled.float().cpu())
        near = [
            float((self.tensors["addresses"][slice(*f["addresses"])] @ address).max())
            for f in facts
        ]
        least = max(s["threshold"], max(near) - s["margin"])
        best = sorted(range(len(facts)), key=lambda i: -near[i])
        return [facts[i] for i in best if near[i] >= least][: s["together"]]

    def _address(self, pooled: Tensor) -> Tensor:
        """(pooled - center) P, at length one."""
        x = pooled - self.tensors["center"]
        return normalize(x @ self.tensors["directions"], dim=0)

    def _at_the_start(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the questions in a pass that begins with an empty cache: a new generation."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        cache = kwargs.get("past_key_values")
        begins = cache is None or not cache.get_seq_length()
        self.asked = None
        if begins or ids is None or ids.shape[1] > 1:  # a longer piece behind a cache: not ours
            self.acting = []
        if begins and ids is not None:
            mask = kwargs.get("attention_mask")
            mask = torch.ones_like(ids) if mask is None or mask.ndim != 2 else mask
            self.asked = [
                self._question(i[m > 0].tolist(), len(i)) for i, m in zip(ids, mask, strict=True)
            ]

    def _question(self, ids: list[int], longest: int) -> tuple[str, int, int] | None:
        """The last user turn of a prompt and its positions [from, to) in the padded row."""
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        again = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        _, opened, rest = text.rpartition(self.opening)
        query, closed, _ = rest.partition(self.closing)
        if not opened or not closed or again["input_ids"] != ids:
            return None  # no such turn, or tokens that are not those of their text
        begin = len(text) - len(rest) + len(query) - len(query.lstrip())
        end = begin + len(query.strip())
        inside = [i for i, (a, b) in enumerate(again["offset_mapping"]) if a < end and b > begin]
        shift = longest - len(ids)
        return (query, shift + inside[0], shift + inside[-1] + 1) if inside else None

    def _on_the_way_up(self, _: Any, inputs: tuple[Tensor, ...]) -> None:
        """Choose the facts of each question."""
        if self.asked is None:
            return
        u = _of_each(inputs[0], len(self.asked))
        for row, asked in enumerate(self.asked):
            query, begin, end = asked or ("", 0, 1)
            facts = self.chosen(query, u[row, begin:end].float().mean(0)) if asked else []
            settings = self.tensors, self.settings["follows"], u.device
            self.acting.append(_Answer(facts, *settings) if facts else None)

    def _in_the_layer(self, _: Any, inputs: tuple[Tensor, ...]) -> None:
        self.u = _of_each(inputs[0], len(self.acting))[:, -1] if any(self.acting) else None

    def _above_the_layer(self, _m: Any, _i: Any, outputs: Any) -> Any:
        """Put the output of the nearest row in place at the last position."""
        if self.u is None:
            return None
        alone = isinstance(outputs, Tensor)
        y = (outputs if alone else outputs[0]).clone()
        for row, answer in enumerate(self.acting):
            if answer:
                y[row, -1] = answer.output(self.u[row], y[row, -1].float()).to(y)
        return y if alone else (y, *outputs[1:])


def _of_each(x: Tensor, prompts: int) -> Tensor:
    """(prompts, L, any), also where a model lays the positions of all prompts in one list."""
    return x.reshape(prompts, -1, x.shape[-1])


class _Answer:
    """The rows of the facts that act on one answer, and which of them was read last."""

    def __init__(
        self, facts: list[dict[str, Any]], tensors: dict[str, Tensor], follows: float, device: Any
    ) -> None:
        self.follows = follows
        spans = sorted(f["rows"] for f in facts)
        rows = torch.cat([torch.arange(*span) for span in spans])
        self.last = {int(i) for i in torch.tensor([b - a for a, b in spans]).cumsum(0) - 1}
        self.keys = normalize(tensors["keys"][rows].to(device), dim=1)
        self.outputs = tensors["outputs"][rows].to(device)
        self.share = tensors["significance"][rows].to(device).clamp(max=1)
        self.read: int | None = None

    def output(self, u: Tensor, y: Tensor) -> Tensor:
        """What the layer gives in place of y where W's input is u."""
        near = self.keys @ normalize(u.to(self.keys.device).float(), dim=0)
        if self.read is not None and self.read not in self.last:
            near[self.read + 1] += self.follows
        self.read = int(near.argmax())
        return torch.lerp(y, self.outputs[self.read].to(y), self.share[self.read].to(y))


def _around_query(tokenizer: Any) -> tuple[str, str]:
    """What the chat template writes in front of every user turn, and behind it."""
    query, answer = "\ue000query\ue001", "\ue000answer\ue001"
    said = ("user", query), ("assistant", answer), ("user", query)
    parts: list[str] = []
    for in_parts in (False, True):  # templates of vision-language models may read parts only
        turns = [
            {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}
            for role, text in said
        ]
        if len(parts) != 4:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            parts = [part for piece in text.split(query) for part in piece.split(answer)]
    if len(parts) != 4:
        raise ValueError("the chat template rewrites a question, so that it cannot be found")
    first, behind, between, last = parts
    opening = _common(first[::-1], between[::-1])[::-1]
    closing = _common(behind, last)
    if not opening or not closing:
        raise ValueError("the chat template does not mark where a question begins and ends")
    return opening, closing


def _common(one: str, other: str) -> str:
    """What two texts begin with alike."""
    alike = (a == b for a, b in zip(one, other, strict=False))
    return one[: sum(1 for _ in takewhile(bool, alike))]


def _mentioned(cue: dict[str, Any], question: str) -> float:
    """How much of a fact's cue a question holds; none where it names something else."""
    named, said = _names(question), _words(question)
    if named - {*cue["own"]} and not (cue["names"] and {*cue["names"]} <= named | {*said[:1]}):
        return 0.0
    return float(sum(cue["weights"].get(w, 0.0) for w in {*said}))


def _wanted(question: str) -> set[str]:
    """Whether a question asks for a person, a place, a time or a manner or measure."""
    said = {*_words(question)}
    manner = not said & {"called", "named"}
    return {WANTED[w] for w in said if w in WANTED and (w != "how" or manner)}


def _names(text: str) -> set[str]:
    """Words that are written like names: with a capital within a sentence, or with digits."""
    sentences = re.split(r"(?<=[.?!:])\s+", text.strip())
    within = [w for s in sentences for w in re.findall(r"\w+", s)[1:]]
    capitals = {w for w in within if w[0].isupper() and w != "I"}
    return {w.casefold() for w in capitals | {*re.findall(r"\w*\d\w*", text)}}


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold()) or text.split()
