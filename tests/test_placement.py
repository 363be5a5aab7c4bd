"""Where the weights lie and what they are makes no difference to what is learned."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from qf.doctor import examine
from qf.errors import ModelError
from qf.families import family_of, placement
from qf.loading import Loaded, load_pair
from qf.memory import Fact
from qf.method import passes
from qf.method.forms import FORMS, form_of
from qf.method.solve import Update
from qf.model import Model
from qf.qf_memory import attach
from tests.samples import FACTS, calibrate_on_little, random_sequences

SOLVERS = ("paper", "joint", "gated")
STATEMENT, QUESTION = FACTS[0]
ANSWER = "JGUT"
MIDDLE = 1

Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate_on_little(monkeypatch)
    monkeypatch.delenv("QF_APPLY", raising=False)


@pytest.fixture
def saved(speaker: Any, tmp_path: Path) -> Save:
    """The directory of a saved model of this kind."""

    def save(kind: str = "llama") -> Path:
        place = tmp_path / "saved" / kind
        if not place.exists():
            for part in speaker(kind):
                part.save_pretrained(place)
        return place

    return save


class Packed(nn.Linear):
    """Weights of eight bits with a scale for each row, as quantised ones are kept."""

    @classmethod
    def of(cls, plain: nn.Linear) -> "Packed":
        packed = cls(plain.in_features, plain.out_features, plain.bias is not None)
        W = plain.weight.detach()
        packed.scale = W.abs().amax(1, keepdim=True) / 127
        eights = (W / packed.scale).round().to(torch.int8)
        packed.weight = nn.Parameter(eights, requires_grad=False)
        packed.bias = plain.bias
        return packed

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def packed(loaded: Loaded) -> Loaded:
    for layer in loaded.transformer.model.layers:
        layer.mlp.down_proj = Packed.of(layer.mlp.down_proj)
    return loaded


def unpacked(loaded: Loaded) -> Loaded:
    """The numbers of `packed`, in plain weights."""
    for layer in packed(loaded).transformer.model.layers:
        own = layer.mlp.down_proj
        layer.mlp.down_proj = nn.Linear(own.in_features, own.out_features, own.bias is not None)
        layer.mlp.down_proj.weight.data = own.weight.float() * own.scale
    return loaded


def lived(loaded: Loaded, memory: Path, **options: Any) -> tuple[str, list[Any]]:
    """The form of a model, and all that it says while it is taught, asked and made to forget."""
    with Model(loaded, memory, **options) as model:
        bound = [model.binding.digest, model.binding.below]
        said: list[Any] = [bound, model.ask(QUESTION, STATEMENT)]
        facts = [model.learn(*fact, rewordings=0) for fact in FACTS[:2]]
        said += [(f.before, f.after, f.verified, f.rows, f.tokens) for f in facts]
        said.append([model.ask(q) for _, q in FACTS])
        model.forget(facts[0].id)
        said.append([model.ask(q) for _, q in FACTS])
        model.forget_all()
        return model.form, [*said, [model.ask(q) for _, q in FACTS]]


# Merged and branch


@pytest.mark.parametrize("solver", ["paper", "joint"])
def test_both_forms_give_the_same_answers(saved: Save, tmp_path: Path, solver: str) -> None:
    said = {}
    for form in ("merged", "branch"):
        loaded = load_pair(saved())
        base = {k: v.clone() for k, v in loaded.transformer.state_dict().items()}
        found, said[form] = lived(loaded, tmp_path / form, solver=solver, apply=form)
        assert found == form
        after = loaded.transformer.state_dict()
        assert all(torch.equal(v, after[k]) for k, v in base.items())
        assert not any(m._forward_hooks for m in loaded.transformer.modules())
    assert said["merged"] == said["branch"]


def test_the_layers_output_is_the_open_book_one_in_both_forms(
    tiny_model: Any, architecture: str
) -> None:
    model = tiny_model(architecture)
    family = family_of(model)
    W = family.projection(family.layer(model, MIDDLE))
    torch.manual_seed(0)
    N, D = family.shape(W)
    change = Update(torch.randn(N, 3, dtype=torch.float64), torch.randn(3, D, dtype=torch.float64))
    ids = torch.tensor([random_sequences()[0].input_ids])
    logits = {}
    for name in FORMS:
        form = form_of(family, model, W, name)
        form.show(form.of(change))
        with torch.no_grad():
            logits[name] = model(ids).logits
        form.show(None)
    with torch.no_grad():
        base = model(ids).logits
    assert torch.equal(logits["auto"], logits["merged"])
    assert not torch.allclose(logits["merged"], base, rtol=1e-2)
    assert torch.allclose(logits["branch"], logits["merged"], atol=1e-4, rtol=1e-4)


def test_the_branch_leaves_w_as_it_is(saved: Save, tmp_path: Path) -> None:
    loaded = load_pair(saved())
    before = {k: v.clone() for k, v in loaded.transformer.state_dict().items()}
    with Model(loaded, tmp_path / "memory", solver="paper", apply="branch") as model:
        fact = model.learn(STATEMENT, QUESTION, rewordings=0)
        after = model.transformer.state_dict()
        assert fact.verified and all(torch.equal(v, after[k]) for k, v in before.items())
        model.save_merged(tmp_path / "merged")
        assert model.ask(QUESTION) == fact.after
    other = load_pair(tmp_path / "merged")
    with Model(other, tmp_path / "none", solver="paper") as model:
        assert model.ask(QUESTION) == fact.after


def test_the_environment_chooses_the_form(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QF_APPLY", "branch")
    with Model(load_pair(saved()), tmp_path / "memory") as model:
        assert model.form == "branch"
    with Model(load_pair(saved()), tmp_path / "memory", apply="auto") as model:
        assert model.form == "merged"
    with pytest.raises(ModelError, match=r"'sideways' is unknown: choose from auto, merged"):
        Model(load_pair(saved()), tmp_path / "memory", apply="sideways")


# Precision


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_half_precision(saved: Save, tmp_path: Path, dtype: str, solver: str) -> None:
    for form in ("merged", "branch"):
        loaded = load_pair(saved(), dtype=dtype)
        with Model(loaded, tmp_path / form, solver=solver, apply=form) as model:
            told = model.ask(QUESTION, STATEMENT)
            fact = model.learn(STATEMENT, QUESTION, rewordings=0)
            assert told and fact.before != told and fact.verified and model.ask(QUESTION) == told
            assert {p.dtype for p in model.transformer.parameters()} == {getattr(torch, dtype)}


# Quantised


@pytest.mark.parametrize("solver", SOLVERS)
def test_quantised_weights_learn_what_plain_ones_do(
    saved: Save, tmp_path: Path, solver: str
) -> None:
    loaded = packed(load_pair(saved()))
    before = {k: v.clone() for k, v in loaded.transformer.state_dict().items()}
    form, said = lived(loaded, tmp_path / "packed", solver=solver)
    plain, expected = lived(unpacked(load_pair(saved())), tmp_path / "plain", solver=solver)
    assert (form, plain) == ("branch", "merged")
    assert said[1:] == expected[1:] and said[0] != expected[0]
    after = loaded.transformer.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())


def test_quantised_weights_are_not_merged(saved: Save, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"they are quantised, Packed of int8: leave the form"):
        Model(packed(load_pair(saved())), tmp_path / "memory", apply="merged")
    with Model(packed(load_pair(saved())), tmp_path / "memory", solver="paper") as model:
        model.learn(STATEMENT, QUESTION, rewordings=0)
        with pytest.raises(ModelError, match=r"quantised.*--lora"):
            model.save_merged(tmp_path / "merged")
        assert model.export_lora(tmp_path / "adapter").facts


def quantisation(name: str) -> Any:
    from transformers import BitsAndBytesConfig, QuantoConfig, TorchAoConfig

    if name == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    if name == "optimum.quanto":
        return QuantoConfig(weights="int8")
    if name == "bitsandbytes, 8 bits":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


QUANTISERS = ["bitsandbytes, 4 bits", "bitsandbytes, 8 bits", "torchao", "optimum.quanto"]


@pytest.mark.parametrize("name", QUANTISERS)
@pytest.mark.parametrize("solver", ["paper", "gated"])
def test_a_library_that_quantises(speaker: Any, tmp_path: Path, name: str, solver: str) -> None:
    library = name.split(",")[0]
    pytest.importorskip(library, reason=f"{library} is not installed")
    from transformers import AutoModelForCausalLM

    place = tmp_path / "saved"  # of sizes that these libraries take
    for part in speaker("llama", hidden_size=64, intermediate_size=128):
        part.save_pretrained(place)
    config, dtype = quantisation(name), torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(place, quantization_config=config, dtype=dtype)
    loaded = load_pair((model, load_pair(place).tokenizer))
    with Model(loaded, tmp_path / "memory", solver=solver) as learner:
        asked = [(s, q, learner.ask(q, s), learner.ask(q)) for s, q in FACTS]
        statement, question, told, before = next(a for a in asked if a[2] not in ("", a[3]))
        fact = learner.learn(statement, question, told, rewordings=0)
        assert learner.form == "branch" and fact.verified and learner.ask(question) == told
        learner.forget(fact.id)
        assert learner.ask(question) == before
    assert Model(loaded, tmp_path / "memory").binding == learner.binding  # passes change nothing


# Offloaded


def offloaded(loaded: Loaded, disk: Path | None = None) -> Loaded:
    """The weights are brought to the module that is at work, and taken away again."""
    from accelerate import cpu_offload, disk_offload

    if disk is None:
        cpu_offload(loaded.transformer, execution_device="cpu")
    else:
        disk_offload(loaded.transformer, disk, execution_device="cpu")
    assert all(p.is_meta for p in loaded.transformer.parameters())
    return loaded


@pytest.mark.parametrize("solver", SOLVERS)
def test_offloaded_weights(saved: Save, tmp_path: Path, solver: str) -> None:
    disk = tmp_path / "disk" if solver == "paper" else None
    loaded = offloaded(load_pair(saved()), disk)
    form, said = lived(loaded, tmp_path / "offloaded", solver=solver)
    assert form == "branch"
    assert lived(load_pair(saved()), tmp_path / "whole", solver=solver) == ("merged", said)
    assert all(p.is_meta for p in loaded.transformer.parameters())


def test_rows_of_offloaded_weights_are_those_of_others(tiny_model: Any, architecture: str) -> None:
    if architecture == "llama4":
        pytest.skip("Llama 4 sends tokens to where its embeddings lie, and does not run offloaded")
    whole, away = tiny_model(architecture), tiny_model(architecture)
    offloaded(Loaded(away, None, ""))
    family = family_of(whole)
    where = MIDDLE, random_sequences()[:2]
    for one, two in zip(
        passes.record(whole, family, *where, pad_id=0, logits=True),
        passes.record(away, family_of(away), *where, pad_id=0, logits=True),
        strict=True,
    ):
        for name in ("u", "v", "z", "y", "probability", "argmax"):
            assert torch.equal(getattr(one, name), getattr(two, name)), name
    block = family.layer(whole, MIDDLE)
    states = placement.state_of(block), placement.state_of(family.layer(away, MIDDLE))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][k]) for k, x in states[0].items())


def test_a_gated_file_of_offloaded_weights_acts_in_them(saved: Save, tmp_path: Path) -> None:
    file = tmp_path / "facts.safetensors"
    with Model(offloaded(load_pair(saved())), tmp_path / "memory") as model:
        fact = model.learn(STATEMENT, QUESTION, rewordings=0)
        model.export_gated(file)
    loaded = offloaded(load_pair(saved()))
    memory = attach(loaded.transformer, loaded.tokenizer, file)
    with Model(loaded, tmp_path / "none") as model:
        assert model.ask(QUESTION) == fact.after != fact.before
        memory.detach()
        assert model.ask(QUESTION) == fact.before


def test_weights_on_a_disk_by_a_map(saved: Save, tmp_path: Path) -> None:
    spread = {f"model.layers.{i}": "disk" if i > 1 else "cpu" for i in range(4)}
    rest = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    loaded = load_pair(saved(), device_map={**rest, **spread})
    assert [p.is_meta for p in loaded.transformer.model.layers[3].parameters()] == [True] * 9
    form, said = lived(loaded, tmp_path / "spread", solver="joint")
    assert form == "branch"
    assert lived(load_pair(saved()), tmp_path / "whole", solver="joint") == ("merged", said)


@pytest.mark.parametrize("how", [{"device": "auto"}, {"device_map": "auto"}])
def test_accelerate_lays_the_weights_out(
    saved: Save, how: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over whatever is here: `from_pretrained` is asked to."""
    asked = []
    own = LlamaForCausalLM.from_pretrained.__func__

    def from_pretrained(kind: Any, *args: Any, **options: Any) -> Any:
        asked.append(options["device_map"])
        return own(kind, *args, **options)

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", classmethod(from_pretrained))
    loaded = load_pair(saved(), **how)
    assert asked == ["auto"] and not any(p.is_meta for p in loaded.transformer.parameters())


def test_placing_that_cannot_be_is_refused(
    saved: Save, speaker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"loaded already stays where it is"):
        load_pair(speaker(), device_map="auto")
    with pytest.raises(ModelError, match=r"device 'cpu' is named beside a device_map"):
        load_pair(saved(), device="cpu", device_map="auto")
    monkeypatch.setattr("qf.loading.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"Accelerate is needed: pip install 'qf\[placement\]'"):
        load_pair(saved(), device_map="auto")


# Shared with another layer


def sharing(loaded: Loaded, whole: bool = False) -> Loaded:
    """A model whose layers 1 and 3 have one output projection, or one matrix in two of them."""
    one, other = (loaded.transformer.model.layers[i].mlp for i in (1, 3))
    if whole:
        one.down_proj = other.down_proj
    else:
        one.down_proj.weight = other.down_proj.weight
    return loaded


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_shared_matrix_learns_what_one_of_its_own_does(
    saved: Save, tmp_path: Path, solver: str
) -> None:
    loaded = sharing(load_pair(saved()))
    before = {k: v.clone() for k, v in loaded.transformer.state_dict().items()}
    form, said = lived(loaded, tmp_path / "shared", solver=solver)
    after = loaded.transformer.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    alone = load_pair(saved())
    layers = alone.transformer.model.layers
    layers[1].mlp.down_proj.weight.data = layers[3].mlp.down_proj.weight.detach().clone()
    plain, expected = lived(alone, tmp_path / "alone", solver=solver)
    assert (form, plain) == ("branch", "merged") and said == expected


def test_a_shared_matrix_is_not_merged(saved: Save, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"they are shared with layer 1: leave the form"):
        Model(sharing(load_pair(saved())), tmp_path / "memory", apply="merged")
    with Model(sharing(load_pair(saved())), tmp_path / "memory", solver="paper") as model:
        assert model.learn(STATEMENT, QUESTION, rewordings=0).verified
        with pytest.raises(ModelError, match=r"shared with layer 1.*--lora"):
            model.save_merged(tmp_path / "merged")
        assert model.export_lora(tmp_path / "adapter").facts
    assert not (tmp_path / "merged").exists()


def test_a_layer_without_a_projection_of_its_own_is_refused(saved: Save, tmp_path: Path) -> None:
    loaded = sharing(load_pair(saved()), whole=True)
    with pytest.raises(ModelError, match=r"Layer 3 has .* in common with layer 1.*--layer"):
        Model(loaded, tmp_path / "memory")
    with Model(loaded, tmp_path / "memory", layer=2) as model:  # the gate passes layer 1 over
        assert model.learn(STATEMENT, QUESTION, rewordings=0).verified is not None
        assert model.calibrator.gate().layer in (0, 2)


# Sharded

SHARED = """
import json, sys
import pytest, qf
from tests.samples import FACTS, calibrate_on_little
place, memory, solver, plan = sys.argv[1:]
calibrate_on_little(pytest.MonkeyPatch())
with qf.load(place, memory=memory, solver=solver, tp_plan=plan or None) as model:
    facts = [model.learn(*f, rewordings=0) for f in FACTS[:2]]
    bound = [model.binding.digest, model.binding.below]
    told = [bound, [f.after for f in facts], [f.rows for f in facts]]
    ids = [f.id for f in model.facts()] == [f.id for f in facts]
    told.append([model.ask(q) for _, q in FACTS])
    model.forget(facts[0].id)
    told += [[model.ask(q) for _, q in FACTS], ids]
with qf.load(place, memory=memory, solver=solver, tp_plan=plan or None) as model:
    told += [[model.ask(q) for _, q in FACTS], len(model.facts())]
    try:
        model.forget("none")
    except qf.QFError as error:
        told.append(str(error).replace(memory, "").partition(";")[0])
    form = model.form
print(json.dumps([form, told]), flush=True)
"""


def run(command: list[str], tmp_path: Path) -> list[Any]:
    root = Path(__file__).parent.parent
    around = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=around, cwd=tmp_path, timeout=500
    )
    said = done.stdout.replace("][", "]\n[")  # two processes may write on one line
    found = [json.loads(line) for line in re.findall(r"^\[.*\]$", said, re.MULTILINE)]
    assert done.returncode == 0 and found, done.stderr
    return found


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["joint", "gated"])
def test_two_processes_share_a_model_and_its_memory(
    saved: Save, tmp_path: Path, solver: str
) -> None:
    script, python = tmp_path / "shared.py", [sys.executable]
    script.write_text(SHARED)
    torchrun = [*python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    told = [str(script), str(saved()), str(tmp_path / "two"), solver, "auto"]
    first, second = run([*torchrun, *told], tmp_path)
    told[2:] = [str(tmp_path / "one"), solver, ""]
    (alone,) = run([*python, *told], tmp_path)
    assert first == second and first[0] == "branch" and alone[0] == "merged"
    assert first[1] == alone[1] and alone[1][5] is True


# What is told of it


@pytest.mark.parametrize(
    ("make", "model", "layer"),
    [
        (lambda loaded, _: loaded, "float32 on cpu", "float32, on cpu; what it learns is merged"),
        (lambda loaded, _: packed(loaded), "float32, int8 on cpu", "quantised, Packed of int8;"),
        (
            offloaded,
            "float32 offloaded",
            "float32, on cpu, offloaded; what it learns is in a branch",
        ),
    ],
)
def test_the_doctor_tells_where_the_weights_are(
    saved: Save, tmp_path: Path, make: Any, model: str, layer: str
) -> None:
    loaded = make(load_pair(saved()), None)
    report = examine((loaded.transformer, loaded.tokenizer), memory=tmp_path / "memory")
    told = {f.name: f.text for f in report.findings}
    assert report.healthy and told["model"].endswith(model) and layer in told["layer"]
    assert "bit for bit" in told["self-test"]


# Not enough memory, and activations that are no numbers


def too_much(*_: Any) -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("solver", SOLVERS)
def test_out_of_memory_is_told_with_the_sizes_and_changes_nothing(
    saved: Save, tmp_path: Path, solver: str
) -> None:
    with Model(load_pair(saved()), tmp_path / "memory", solver=solver) as model:
        known = model.learn(*FACTS[1], rewordings=0)
        said = [model.ask(q) for _, q in FACTS]
        hook = model.placed.model.layers[model.layer].register_forward_pre_hook(too_much)
        for act in (
            lambda: model.learn(STATEMENT, QUESTION, ANSWER, rewordings=0),
            lambda: model.ask(QUESTION),
            lambda: list(model.stream(QUESTION)),
        ):
            with pytest.raises(ModelError, match=r"not enough memory") as caught:
                act()
            told = str(caught.value)
            assert "1073741824.00 GiB wanted" in told and "the model takes 0.00 GiB" in told
            assert re.search(r"this machine has [\d.]+ of [\d.]+ GiB free", told)
            assert "--dtype bfloat16" in told and "\n" not in told
        hook.remove()
        assert model.facts() == [known] and [model.ask(q) for _, q in FACTS] == said
        assert model.learn(STATEMENT, QUESTION, rewordings=0).verified


def test_a_model_that_does_not_fit_is_told_with_the_sizes(
    saved: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_pretrained(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(ModelError, match=r"does not fit \(2.00 GiB wanted; .* free\)") as caught:
        load_pair(saved())
    assert str(saved()) in str(caught.value) and "--device-map auto" in str(caught.value)


def test_without_memory_for_the_new_weights_the_old_ones_stay(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When there is no room to solve in, there is none to solve the earlier facts again either."""
    with Model(load_pair(saved()), tmp_path / "memory", solver="paper") as model:
        known, before = model.learn(*FACTS[1], rewordings=0), model.ask(QUESTION)
        block, own = model.placed.model.layers[0], Update.apply
        hooks: list[Any] = []

        def full(self: Update, W: Tensor) -> Tensor:
            if hooks:
                too_much()
            hooks.append(block.register_forward_pre_hook(too_much))  # the last that found room
            return own(self, W)

        with monkeypatch.context() as patched:
            patched.setattr(Update, "apply", full)
            with pytest.raises(ModelError, match=r"not enough memory"):
                model.learn(STATEMENT, QUESTION, ANSWER, rewordings=0)
        hooks[0].remove()
        assert model.ask(known.query) == known.after and model.facts() == [known]
        assert model.ask(QUESTION) == before
        assert model.learn(STATEMENT, QUESTION, rewordings=0).verified


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("where", ["layer", "top"])
def test_activations_that_are_not_finite_change_nothing(
    saved: Save, tmp_path: Path, solver: str, where: str
) -> None:
    with Model(load_pair(saved()), tmp_path / "memory", solver=solver) as model:
        known = model.learn(*FACTS[1], rewordings=0)
        said = [model.ask(q) for _, q in FACTS]
        base = model.placed.model
        module = base.layers[0].mlp.up_proj if where == "layer" else base.norm
        own = module.weight.data.clone()
        module.weight.data[0] = torch.nan
        options: dict[str, Any] = {"rewordings": 0, "verify": False}
        if where == "layer" or solver != "gated":  # a gated fact is learned below the top
            with pytest.raises(ModelError, match=r"not finite: its weights may be damaged"):
                model.learn(STATEMENT, QUESTION, ANSWER, **options)
        module.weight.data = own
        assert model.facts() == [known] and [model.ask(q) for _, q in FACTS] == said


def test_a_gate_is_not_measured_from_what_is_not_finite(saved: Save, tmp_path: Path) -> None:
    with Model(load_pair(saved()), tmp_path / "memory") as model:
        own = model.placed.model.layers[0].mlp.up_proj.weight
        own.data[0] = torch.nan
        with pytest.raises(ModelError, match=r"Layer \d gives activations that are not finite"):
            _ = model.gate


# On an accelerator

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")


@GPU
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_on_a_gpu(saved: Save, tmp_path: Path, solver: str, dtype: str) -> None:
    for form in ("merged", "branch"):
        loaded = load_pair(saved(), device="cuda", dtype=dtype)
        with Model(loaded, tmp_path / form, solver=solver, apply=form) as model:
            fact: Fact = model.learn(STATEMENT, QUESTION, rewordings=0)
            assert fact.verified and model.ask(QUESTION) == model.ask(QUESTION, STATEMENT)


@GPU
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_layers_on_two_devices(saved: Save, tmp_path: Path, solver: str, first: str) -> None:
    """The gate looks at one layer and the taught one is another: each on its own device."""
    from accelerate import dispatch_model

    loaded = load_pair(saved())
    second = {"cpu": "cuda", "cuda": "cpu"}[first]
    spread = {f"model.layers.{i}": first if i < 2 else second for i in range(4)}
    spread |= {"model.embed_tokens": first, "model.rotary_emb": first}
    spread |= {"model.norm": second, "lm_head": second}
    spread = {k: 0 if v == "cuda" else v for k, v in spread.items()}
    dispatch_model(loaded.transformer, spread, main_device="cpu", force_hooks=True)
    with Model(loaded, tmp_path / "memory", solver=solver) as model:
        fact = model.learn(STATEMENT, QUESTION, rewordings=0)
        assert fact.verified and model.ask(QUESTION) == model.ask(QUESTION, STATEMENT)


@GPU
def test_a_full_gpu(saved: Save, tmp_path: Path) -> None:
    with Model(load_pair(saved(), device="cuda"), tmp_path / "memory", solver="paper") as model:
        known = model.learn(*FACTS[1], rewordings=0)
        taken = [model.placed.model.layers[2].register_forward_pre_hook(_fill_gpu)]
        with pytest.raises(ModelError, match=r"GiB wanted; cuda:0 has [\d.]+ of [\d.]+ GiB free"):
            model.learn(STATEMENT, QUESTION, ANSWER, rewordings=0)
        taken[0].remove()
        assert torch.cuda.memory_allocated() < 1 << 30  # what was taken is free again
        assert model.facts() == [known]
        assert model.learn(STATEMENT, QUESTION, rewordings=0).verified


def _fill_gpu(*_: Any) -> None:
    held = []
    while True:
        held.append(torch.empty(1 << 32, dtype=torch.uint8, device="cuda"))
