"""What a bug report needs: versions, devices, model, template, memory, calibration, a self-test.

It looks and changes nothing: the self-test has a memory of its own. What it returns can be shown to
anybody: neither facts nor secrets nor private paths are in it.
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from qf import __version__
from qf.chat import THINK, ChatOptions, messages, prompt_ids, takes_system, writes_tools
from qf.errors import MemoryFault, QFError
from qf.families import SUPPORTED, family_of, placement
from qf.lesson import Lesson, pair
from qf.loading import Loaded, load_pair, looks_local
from qf.memory import Memory
from qf.model import Model, default_memory, layer_of_environment, usual_layer

Status = Literal["ok", "warning", "problem"]
PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "bitsandbytes",
    "torchao", "optimum-quanto",
)  # fmt: skip
LESSON = Lesson("Qi started Oxinnovate.", "Who started Oxinnovate?", "It was Qi.", None)
TOOL = {"type": "function", "function": {"name": "now", "parameters": {}}}
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of a report: what was looked at, how it is, and what to do about it."""

    name: str
    status: Status
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All that was found, in the order in which it was looked at."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is a problem; a warning is none."""
        return all(f.status != "problem" for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {"healthy": self.healthy, "findings": [asdict(f) for f in self.findings]}


def examine(
    model: str | os.PathLike[str] | tuple[Any, Any] | None = None,
    *,
    memory: str | os.PathLike[str] | None = None,
    layer: int | None = None,
    system: str | None = None,
    loading: Mapping[str, Any] | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Report:
    """Examine what `qf.load` of the same arguments works with; `loading` goes to `load_pair`.

    A step that fails is a finding, and those that need it are left out; nothing is raised.
    `on_step` is told what is looked at next.
    """
    with tempfile.TemporaryDirectory() as scratch:
        patient = _Patient(model, memory, layer, system, loading or {}, Path(scratch))
        done: set[str] = set()
        found: list[Finding] = []
        for name, (needs, step) in _STEPS.items():
            if not needs <= done:
                continue
            on_step(name)
            seen = _looked(name, step, patient)
            found.append(seen)
            if seen.status != "problem":
                done.add(name)
    return Report(tuple(patient.public(f) for f in found))


def _looked(name: str, step: Callable[[_Patient], Finding], patient: _Patient) -> Finding:
    try:
        return replace(step(patient), name=name)
    except QFError as error:
        told = re.fullmatch(r"(.+)[:;] (.+)", str(error), re.DOTALL)
        return Finding(name, "problem", *(told.groups() if told else (str(error),)))
    except Exception as error:  # what nobody thought of is what a report is for
        return Finding(name, "problem", f"{type(error).__name__}: {error}", "report it with this")


@dataclass
class _Patient:
    """What is examined, as far as the steps have come."""

    name: str | os.PathLike[str] | tuple[Any, Any] | None
    directory: str | os.PathLike[str] | None
    layer: int | None
    system: str | None
    loading: Mapping[str, Any]
    scratch: Path
    _loaded: list[Loaded] = field(default_factory=list)

    @property
    def loaded(self) -> Loaded:
        if not self._loaded:
            self._loaded.append(load_pair(self.name, **self.loading))
        return self._loaded[0]

    @property
    def memory(self) -> Path:
        named = self.directory or os.environ.get("QF_MEMORY") or default_memory(self.loaded.name)
        return Path(named).expanduser()

    def taught_layer(self) -> int:
        """The layer that `qf.load` takes; the memory's own troubles are another step's."""
        count = len(family_of(self.loaded.transformer).layers(self.loaded.transformer))
        layer = layer_of_environment() if self.layer is None else self.layer
        if layer is not None:
            return layer
        try:
            return usual_layer(self.memory, count)
        except MemoryFault:
            return usual_layer(self.scratch / "none", count)

    def model(self, solver: str = "gated") -> Model:
        """The model with an empty memory of its own."""
        directory = self.scratch / "memory"
        layer = self.taught_layer()
        return Model(self.loaded, directory, layer=layer, solver=solver, system=self.system)

    def public(self, finding: Finding) -> Finding:
        """The finding with its paths cut short."""
        memories, models = self._memories(), [m for m in self._models() if m and looks_local(m)]
        paths = [*memories, *models, *(m.directory for m in self._loaded)]
        template = str(self.loading.get("template") or "")
        if "{" not in template:  # else it is the template itself
            paths.append(template)

        def shown(text: str) -> str:
            for model in models:  # a memory that nobody named is called by its model's whole path
                name = Path(model).name or Path(model).resolve().name
                text = text.replace(default_memory(model).name, name)
            return public(text, [p for p in paths if p])

        return replace(finding, text=shown(finding.text), remedy=shown(finding.remedy))

    def _memories(self) -> list[str]:
        """The directories of memories that may be told of."""
        named = [self.directory, os.environ.get("QF_MEMORY")]
        return [str(m) for m in [*named, self.memory if self._loaded else None] if m]

    def _models(self) -> Iterator[str]:
        """The names of models that may be told of: this one, and one that the facts belong to."""
        if not isinstance(self.name, tuple):
            yield str(self.name or os.environ.get("QF_MODEL") or "")
        yield from (loaded.name for loaded in self._loaded)
        for memory in self._memories():
            with suppress(QFError):
                bound = Memory.bound_to(Path(memory).expanduser())
                yield bound.model if bound else ""


# The steps


def _versions(_: _Patient) -> Finding:
    parts = [f"qf {__version__}", f"python {platform.python_version()}"]
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            parts.append(f"{package} {version(package)}")
    return Finding("", "ok", f"{', '.join(parts)}; {platform.system()} {platform.machine()}")


def _devices(_: _Patient) -> Finding:
    parts = [f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} used"]
    with suppress(AttributeError, ValueError, OSError):  # not told on every system
        page = os.sysconf("SC_PAGE_SIZE")
        whole, free = (os.sysconf(name) * page for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
        parts.append(f"{whole / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB free")
    for i in range(torch.cuda.device_count()):
        free, whole = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        parts.append(f"cuda:{i} {name}, {whole / GIB:.1f} GiB, {free / GIB:.1f} GiB free")
    if torch.backends.mps.is_available():
        parts.append("mps")
    return Finding("", "ok", "; ".join(parts))


def _model(patient: _Patient) -> Finding:
    loaded = patient.loaded
    weights = [*loaded.transformer.parameters()]
    count, size = sum(w.numel() for w in weights), sum(w.nbytes for w in weights)
    kinds = Counter(str(w.dtype).removeprefix("torch.") for w in weights)
    devices: Counter[str] = Counter()
    for w in weights:
        devices["offloaded" if w.is_meta else str(w.device)] += w.nbytes
    shares = devices if len(devices) == 1 else [f"{d} ({n / size:.0%})" for d, n in devices.items()]
    where = f"{', '.join(kinds)} on {', '.join(shares)}".replace("on offloaded", "offloaded")
    text = f"{loaded.name}, {count:,} parameters, {size / GIB:.2f} GiB, {where}"
    if "float16" in kinds and "cpu" in devices:
        return Finding("", "warning", text, "float16 is slow and narrow on a CPU: --dtype bfloat16")
    return Finding("", "ok", text)


def _family(patient: _Patient) -> Finding:
    family = family_of(patient.loaded.transformer)
    if family.name not in SUPPORTED:
        text = f"{family.name}, not listed: built like one that is, as a short pass shows"
        text += f"; approximate: {family.limits}" if family.limits else ""
        return Finding("", "warning", text, "trust what verifies; `qf models` lists tested ones")
    if family.limits:
        remedy = "what is learned is verified all the same; `qf models` lists exact ones"
        return Finding("", "warning", f"{family.name}, approximate: {family.limits}", remedy)
    return Finding("", "ok", f"{family.name}, exact")


def _layer(patient: _Patient) -> Finding:
    with patient.model() as model:
        block = model.family.layer(patient.loaded.transformer, model.layer)
        W: Any = model.family.projection(block)
        shape = " × ".join(map(str, model.family.shape(W)))
        why, form = model.family.unwritable(patient.loaded.transformer, W), model.form
        count = len(model.family.layers(patient.loaded.transformer))
    dtype = str(W.weight.dtype).removeprefix("torch.")
    text = f"{model.layer} of 0 to {count - 1}; W is {shape}, {dtype}, on {placement.device_of(W)}"
    text += f", {why}" if why else ""
    acts = {"merged": "merged into it", "branch": "in a branch beside it"}
    return Finding("", "ok", f"{text}; what it learns is {acts[form]}")


def _template(patient: _Patient) -> Finding:
    tokenizer = patient.loaded.tokenizer
    pair(tokenizer, LESSON, patient.system)  # raises where it cannot be learned under
    parts = []
    taken = takes_system(tokenizer)
    if taken:
        own = prompt_ids(tokenizer, messages("?")) != prompt_ids(tokenizer, messages("?", ""))
        parts.append("with a system turn" + (" and a prompt of its own" if own else ""))
    thinks = THINK in str(tokenizer.chat_template)
    tools = writes_tools(tokenizer, ChatOptions((TOOL,)))
    parts += ["thinking" if thinks else "no thinking", "tools" if tools else "no tools"]
    if taken:
        return Finding("", "ok", ", ".join(parts))
    text = ", ".join(["without a system turn", *parts])
    return Finding("", "warning", text, "instructions and --system go into the first question")


def _memory(patient: _Patient) -> Finding:
    with patient.model() as model:
        memory = Memory.open(patient.memory, model.binding)
    health = memory.check()
    if health.complaints:
        text = f"the file is damaged ({health.complaints[0]})"
        return Finding("", "problem", text, "restore it from a copy, or choose another (--memory)")
    if health.damaged:
        text = f"the rows of {', '.join(health.damaged)} cannot be read"
        return Finding("", "problem", text, "`qf forget ID` them and teach them again")
    if not _writable(patient.memory):
        text = f"{patient.memory} cannot be written"
        return Finding("", "problem", text, "allow this user to, or choose another (--memory)")
    if not health.facts:
        return Finding("", "ok", f"no facts in {patient.memory}")
    counts = Counter(_acts(fact.solver, fact.consolidated) for fact in health.facts)
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    rows = sum(fact.rows for fact in health.facts)
    text = f"{len(health.facts)} facts in {patient.memory} ({kinds}), {rows} rows, all readable"
    if unsure := sum(fact.verified is False for fact in health.facts):
        remedy = "`qf facts` shows which: teach them in other words, or at another layer"
        return Finding("", "warning", f"{text}; {unsure} not verified", remedy)
    return Finding("", "ok", text)


def _acts(solver: str, consolidated: bool) -> str:
    return "consolidated" if consolidated else "gated" if solver == "gated" else f"by {solver}"


def _writable(directory: Path) -> bool:
    here = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    return os.access(here, os.W_OK)


def _calibration(patient: _Patient) -> Finding:
    with patient.model() as model:
        gate, traffic = model.calibrator.known_gate(), model.calibrator.known_traffic()
        large = model.calibrator.large()
    if gate is None:
        text, remedy = "not measured yet; the first learn measures it", ""
        if large:
            remedy = "`qf calibrate` once: it takes a while"
        return Finding("", "warning" if large else "ok", text, remedy)
    text = f"the gate reads layer {gate.layer}, opens above {gate.threshold:.2f}"
    protected = f"{len(traffic.moments)} directions protected" if traffic else "none protected"
    return Finding("", "ok", f"{text}; {protected}")


def _self_test(patient: _Patient) -> Finding:
    with patient.model() as model:
        gated = model.calibrator.known_gate() is not None
    with patient.model("gated" if gated else "paper") as model:
        block = model.family.layer(patient.loaded.transformer, model.layer)
        projection = model.family.projection(block)
        W = {name: x.clone() for name, x in placement.state_of(projection).items()}
        started = time.perf_counter()
        answer = model.ask(LESSON.query, LESSON.instruction) or LESSON.answer
        fact = model.learn(LESSON.instruction, LESSON.query, answer, rewordings=0)
        seconds = time.perf_counter() - started
        model.forget(fact.id)
        now = placement.state_of(projection)
        restored = all(torch.equal(x, now[name]) for name, x in W.items())
        same = model.ask(LESSON.query) == fact.before
    text = f"{model.solver}: learned in {fact.seconds:.2f} s, with questions {seconds:.2f} s"
    if not (restored and same):
        what = "the answer" if restored else "W"
        return Finding("", "problem", f"{text}; {what} is not what it was", "report this")
    text += f"; answers {fact.after!r} for {fact.before!r}; forgotten, W bit for bit as before"
    if not fact.verified:
        text = f"{text}; not verified, for it should say {fact.answer!r}"
        return Finding("", "warning", text, "`qf layers` finds a better layer, if there is one")
    return Finding("", "ok", text)


# What it is called, the steps that must have gone well before, and how it is done.
_STEPS: dict[str, tuple[set[str], Callable[[_Patient], Finding]]] = {
    "versions": (set(), _versions),
    "devices": (set(), _devices),
    "model": (set(), _model),
    "family": ({"model"}, _family),
    "layer": ({"family"}, _layer),
    "template": ({"model"}, _template),
    "memory": ({"layer"}, _memory),
    "calibration": ({"layer"}, _calibration),
    "self-test": ({"layer", "template"}, _self_test),
}

# What nobody else need see

_PATH = re.compile(r"(?<![\w.~…/:\\-])/[^\s'\"(),;:]*/(?=[^\s'\"(),;:/])")
_SECRETS = re.compile(r"\bhf_\w{6,}|(?<=//)[^\s/@]+(?=@)")
_SECRET_NAMES = re.compile(r"TOKEN|KEY|SECRET|PASSWORD", re.IGNORECASE)


def public(text: str, paths: Iterable[str] = ()) -> str:
    """The text without secrets and with paths cut short: home is ~, the working directory is '.'.

    Of `paths`, in any form, and of all others that begin at the root, the last part is left.
    """
    for name, value in os.environ.items():
        if _SECRET_NAMES.search(name) and len(value) > 5:
            text = text.replace(value, "(secret)")
    text = _SECRETS.sub("(secret)", text)
    for above in sorted({a for p in paths for a in _above(p)}, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.-]){re.escape(above)}[/\\]+", "…/", text)
    for path in sorted((Path.cwd(), Path.home()), key=lambda p: -len(str(p))):
        short = "." if path == Path.cwd() else "~"
        for form in {path, path.resolve()}:
            text = _cut(text, form, short)
    return _PATH.sub("…/", text)


def _above(given: str) -> Iterator[str]:
    """What stands in front of the last part of a path, in each form that it may be written in."""
    path = Path(given)
    full = path.expanduser()
    forms = (path, full, full.absolute(), full.resolve())
    for form in (given, *map(str, forms)):
        above = re.sub(r"[/\\]*[^/\\]+[/\\]*$", "", form)
        if above.strip("./\\") or above.startswith(".."):
            yield above


def _cut(text: str, path: Path, short: str) -> str:
    if path == Path(path.anchor):
        return text
    return re.sub(re.escape(str(path)) + r"(?![\w-])", lambda _: short, text)
