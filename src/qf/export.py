"""What was learned, written for others to read: adapter, checkpoint, gated memory, facts.

Takes an Update, tensors and names, and writes files; each appears whole or not at all. It solves
and asks nothing, and knows no model beyond what `save_pretrained` writes.

    lora     adapter_config.json, adapter_model.safetensors   ΔW = B A, as PEFT reads it
    merged   a Transformers checkpoint with its tokenizer     W + ΔW
    gated    FILE.safetensors, qf_memory.py                   rows, addresses, gate; their loader
    facts    FILE                                             facts and rows, for another memory

Every directory holds a qf.json as well, which says what is in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from qf import qf_memory
from qf.errors import MemoryFault, QFError
from qf.memory import Binding, Fact, FactRows
from qf.method.gate import TOGETHER
from qf.method.readout import FOLLOWS
from qf.method.solve import Update
from qf.recall import MARGIN, MENTIONED, Recall
from qf.records import ID, checked

MANIFEST = "qf.json"
LOADER = "qf_memory.py"
FACTS = "qf facts 2"
READ = ("qf facts 1", FACTS)  # the first did not say what lies below the taught layer
_UNREADABLE = (  # what reading a file raises that is none: by JSON, by tensors, by records
    SafetensorError,
    ValueError,
    TypeError,
    KeyError,
    AssertionError,
    RecursionError,
    RuntimeError,
)


@dataclass(frozen=True)
class Exported:
    """What was written: the facts in it, and those that were asked for and are not.

    `unverified` are facts that it holds and that are not answered as they were when learned.
    `rank` is that of the adapter, the highest one where there are several; `name`, from a digest of
    the content, tells one state of the facts from another.
    """

    path: Path
    facts: list[Fact]
    left_out: list[Fact] = field(default_factory=list)
    unverified: list[Fact] = field(default_factory=list)
    rank: int = 0
    name: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What `json.dumps` takes; of each fact its id."""
        kinds = ("facts", "left_out", "unverified")
        listed = {kind: [f.id for f in getattr(self, kind)] for kind in kinds}
        return {"path": str(self.path), **listed, "rank": self.rank, "name": self.name}


@dataclass(frozen=True)
class Imported:
    """What came in: new facts, the earlier ones that they replace, and those that were there."""

    added: list[Fact]
    replaced: list[Fact]
    skipped: list[Fact]


# All or nothing


def check_directory(path: Path, force: bool) -> Path:
    """Return where a directory is to be written; with `force`, in place of an earlier export.

    Raises QFError: a file, or a directory with something in it, of which even `force` takes only
    what qf wrote.
    """
    place = Path(path).expanduser().resolve()
    with _told(path):
        if place.exists() and not place.is_dir():
            raise QFError(f"{path} is not a directory: name another one to export to.")
        if place.is_dir() and any(place.iterdir()):
            if not (place / MANIFEST).is_file():
                raise QFError(
                    f"The directory {path} holds files that are no export of qf: name another one."
                )
            if not force:
                raise QFError(
                    f"The directory {path} holds an export: name another one, or replace it with"
                    " --force."
                )
    return place


def check_file(path: Path, force: bool) -> Path:
    """Return where a file is to be written; raises QFError: it is there, and not to be replaced."""
    place = Path(path).expanduser().resolve()
    if place.is_dir():
        raise QFError(f"{path} is a directory: name a file to export to.")
    if place.exists() and not force:
        raise QFError(f"The file {path} is there: name another one, or replace it with --force.")
    return place


@contextmanager
def whole_directory(path: Path, force: bool) -> Iterator[Path]:
    """A directory to fill, which takes the place of `path` when the block ends without an error.

    Raises QFError as `check_directory` does, and where nothing can be written.
    """
    place = check_directory(path, force)
    unfinished, old = _beside(place, "part"), _beside(place, "old")
    with _told(path):
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            if place.exists():
                place.rename(old)
            try:
                unfinished.rename(place)
            except BaseException:
                with suppress(OSError):
                    old.rename(place)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _write_files(contents: Mapping[Path, bytes], path: Path) -> None:
    """Write files, of which the first is the one that the user named, `path`; all or none."""
    unfinished = {place: _beside(place, "part") for place in contents}
    with _told(path):
        try:
            for place, content in contents.items():
                place.parent.mkdir(parents=True, exist_ok=True)
                unfinished[place].write_bytes(content)
            for place, new in unfinished.items():
                new.replace(place)
        finally:
            for new in unfinished.values():
                new.unlink(missing_ok=True)


def _beside(place: Path, kind: str) -> Path:
    return place.with_name(f".{place.name}.{os.getpid()}.{kind}")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # the second for a checkpoint on a full disk
        why = getattr(error, "strerror", None) or error
        raise QFError(
            f"{path} cannot be written ({why}): make room or name another place to export to."
        ) from error


# Adapters


def compressed(update: Update, rank: int) -> Update:
    """The nearest change of W of at most this rank: the largest singular values of B A."""
    Q, R = torch.linalg.qr(update.B.double())
    P, S = torch.linalg.qr(update.A.double().T)
    U, σ, Vh = torch.linalg.svd(R @ S.T)
    return Update(Q @ U[:, :rank] * σ[:rank], Vh[:rank] @ P.T)


def parts(update: Update, counts: Sequence[int]) -> list[Update]:
    """The adapters of single facts, of so many rows each, which add up to `update` exactly."""
    columns, rows = update.B.split(list(counts), 1), update.A.split(list(counts))
    return [Update(B, A) for B, A in zip(columns, rows, strict=True)]


def write_adapter(
    directory: Path, update: Update, module: str, base: str, *, by_parameter: bool = False
) -> str:
    """Write ΔW of the module of this full name as a PEFT adapter; return a name for it.

    The scale of an adapter is lora_alpha / r, so alpha = r adds B A as it is. `base` is the name of
    the model that it belongs to. `by_parameter` names the module's weight in place of the module.
    """
    key = f"base_model.model.{module}"
    tensors = {f"{key}.lora_A.weight": update.A, f"{key}.lora_B.weight": update.B}
    weights = safetensors.torch.save(_plain(tensors), {"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": update.rank,
        "lora_alpha": update.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": [] if by_parameter else [module],
        **({"target_parameters": [f"{module}.weight"]} if by_parameter else {}),
        "use_dora": False,
        "use_rslora": False,
    }
    directory.mkdir(exist_ok=True)
    (directory / "adapter_model.safetensors").write_bytes(weights)
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return _name(weights)


def write_manifest(directory: Path, form: str, binding: Binding, facts: Sequence[Fact]) -> None:
    """Write down what a directory holds: model, layer, and the facts as they were taught."""
    told = {"form": form, **asdict(binding), "facts": [_brief(f) for f in facts]}
    (directory / MANIFEST).write_text(json.dumps(told, indent=2) + "\n")


# Gated memory


def write_gated(
    path: Path,
    facts: Sequence[Fact],
    recall: Recall,
    modules: Mapping[str, str],
    scale: float,
    fingerprint: str,
    binding: Binding,
    force: bool = False,
) -> str:
    """Write facts and their gate as one file, and beside it the loader; return a name for it.

    `recall` holds the facts, by their ids. `modules` are the full names of those that the loader
    looks at, `scale` is what makes recorded outputs the layer's own, `fingerprint` is what the
    loader tells the model by.

    Raises QFError: one of the two files is there, and not to be replaced.
    """
    facts, gate = sorted(facts, key=lambda f: f.id), recall.gate
    rows = [recall.recorded(f.id) for f in facts]
    tensors = {
        "addresses": torch.cat([recall.addresses(f.id) for f in facts]),
        "keys": torch.cat([r.keys for r in rows]),
        "outputs": scale * torch.cat([r.outputs for r in rows]),
        "significance": torch.cat([r.significance for r in rows]),
        "center": gate.center,
        "directions": gate.directions,
    }
    settings = {
        **asdict(binding),
        "gate_layer": gate.layer,
        "threshold": gate.threshold,
        "mentioned": MENTIONED,
        "margin": MARGIN,
        "together": TOGETHER,
        "follows": FOLLOWS,
        "fingerprint": fingerprint,
        "modules": dict(modules),
        "facts": _placed(facts, recall),
    }
    told = {"format": qf_memory.FORMAT, "settings": json.dumps(settings, sort_keys=True)}
    content = safetensors.torch.save(_plain(tensors), told)
    loader = Path(qf_memory.__file__).read_bytes()
    place = check_file(path, force)
    beside = place.with_name(LOADER)
    if not (beside.is_file() and beside.read_bytes() == loader):
        check_file(beside, force)
    _write_files({place: content, beside: loader}, path)
    return _name(content)


def _placed(facts: Sequence[Fact], recall: Recall) -> list[dict[str, Any]]:
    """What is known of each fact, and which addresses and rows are its own: [from, to)."""
    placed, address, row = [], 0, 0
    for fact in facts:
        count = len(recall.recorded(fact.id).keys)
        ends = address + len(recall.addresses(fact.id)), row + count
        cue = recall.cue(fact.id)
        own = {"weights": cue.weights, "names": sorted(cue.names), "own": sorted(cue.own)}
        found_by = {"cue": own, "tells": sorted(recall.tells(fact.id))}
        where = {"addresses": [address, ends[0]], "rows": [row, ends[1]]}
        placed.append({**_brief(fact), **found_by, **where})
        address, row = ends
    return placed


# Facts for another memory


def write_facts(
    path: Path, binding: Binding, facts: Sequence[tuple[Fact, FactRows]], force: bool = False
) -> str:
    """Write facts with their rows as one file, bound to their model; return a name for it."""
    told = {
        "format": FACTS,
        "binding": json.dumps(asdict(binding)),
        "facts": json.dumps([fact.as_dict() for fact, _ in facts]),
    }
    tensors: dict[str, Tensor] = {}
    for fact, rows in facts:
        tensors |= {f"{fact.id}.{name}": x for name, x in rows.tensors().items()}
    content = safetensors.torch.save(_plain(tensors), told)
    _write_files({check_file(path, force): content}, path)
    return _name(content)


def read_facts(path: Path, ours: Binding, shape: Sequence[int]) -> list[tuple[Fact, FactRows]]:
    """Return the facts in a file, with their rows, for the model of this binding.

    `shape` (N, D) is that of the model's W.

    Raises MemoryFault: no such file, one that is damaged or of something else, or another model's.
    """
    place = Path(path).expanduser()
    try:
        if not place.is_file():
            _check_form(path, place, {}, ours)
            missing = f"There is no file {path}"
            if place.is_dir():
                missing = f"{path} is no file but a directory"
            raise MemoryFault(f"{missing}: name one that `qf export --facts` wrote.")
        with safetensors.safe_open(place, "pt") as file:
            told = file.metadata() or {}
            if told.get("format") not in READ:
                _check_form(path, place, told, ours)
                raise MemoryFault(
                    f"The file {path} holds no facts of qf: write one with `qf export --facts`."
                )
            _check_model(path, Binding(**json.loads(told["binding"])), ours)
            records = list(enumerate(json.loads(told["facts"]), 1))
            facts = [checked(record, number, ours.layer) for number, record in records]
            own: dict[str, list[str]] = {}
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                own.setdefault(name.partition(".")[0], []).append(name)
            found = [(f, _rows(f, own.get(f.id, []), file.get_tensor, shape)) for f in facts]
        if len({fact.id for fact, _ in found}) < len(found):
            raise ValueError("an id occurs twice")
        return found
    except OSError as error:
        raise MemoryFault(f"The file {path} cannot be read ({error}): check it.") from error
    except _UNREADABLE as error:
        raise MemoryFault(
            f"The file {path} is damaged or holds no facts of qf ({error}): write it again with"
            " `qf export --facts`."
        ) from error


def _check_form(path: Path, place: Path, told: Mapping[str, str], ours: Binding) -> None:
    """Raise MemoryFault for an export of another form; `told` is what a file tells of itself."""
    manifests = [d / MANIFEST for d in (place, *place.absolute().parents[:2])]  # DIR/ID/FILE
    if told.get("format") in qf_memory.READ:
        held = {**json.loads(told["settings"]), "form": "gated"}
    elif place.exists() and (found := [m for m in manifests if m.is_file()]):
        held = json.loads(found[0].read_text())
    else:
        return
    names = {"lora": "an adapter", "merged": "a checkpoint", "gated": "a gated memory"}
    whose = "{model} (layer {layer}, {digest:.8})"
    differs = f", not of {whose.format(**asdict(ours))}" if held["digest"] != ours.digest else ""
    raise MemoryFault(
        f"{path} holds {names[held['form']]} of {whose.format(**held)}{differs}, and facts come in"
        f" from files only that `qf export --facts` wrote: write one from a memory of {ours.model}."
    )


def _check_model(path: Path, held: Binding, ours: Binding) -> None:
    if held.fits(ours):
        return
    remedy = f"import them into {held.model} with --model"
    if held.model == ours.model:
        remedy = "its weights or its chat template have changed since, so teach them again"
        if held.layer != ours.layer:
            remedy = f"give --layer {held.layer}, and a memory of that layer with --memory"
    raise MemoryFault(
        f"The file {path} holds facts of {held.model} (layer {held.layer}), not of"
        f" {ours.model} (layer {ours.layer}); {remedy}."
    )


def _rows(
    fact: Fact, names: Sequence[str], tensor: Callable[[str], Tensor], shape: Sequence[int]
) -> FactRows:
    if not ID.fullmatch(fact.id):
        raise ValueError(f"{fact.id!r} is no id")
    rows = FactRows.of({n.partition(".")[2]: tensor(n) for n in names})
    (N, D), n = shape, fact.rows
    fits = rows.keys.shape == (n, D) and rows.deltas.shape == (n, N)
    fits &= rows.outputs is None or rows.outputs.shape == (n, N)
    fits &= bool((rows.significance >= 0).all())
    fits &= all(x.dtype == torch.float32 for k, x in rows.tensors().items() if k != "pooled_layer")
    fits &= rows.pooled is None or rows.pooled.shape == (1 + len(fact.rewordings), D)
    if not fits or not all(bool(x.isfinite().all()) for x in rows.tensors().values()):
        raise ValueError(f"the rows of fact {fact.id} are not those of a fact of this model")
    return rows


def _brief(fact: Fact) -> dict[str, Any]:
    told = {"id": fact.id, "instruction": fact.statement}
    return {**told, "query": fact.query, "answer": fact.answer}


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: x.detach().to("cpu", torch.float32).contiguous().clone() for n, x in tensors.items()}


def _name(content: bytes) -> str:
    return f"qf-{hashlib.sha256(content).hexdigest()[:12]}"
