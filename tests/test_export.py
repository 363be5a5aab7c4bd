"""What was learned leaves and comes in again: read by PEFT, by Transformers and by the loader."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import qf.export
import qf.memory
from qf import qf_memory
from qf.asking import Asking
from qf.chat import prompt_ids
from qf.errors import MemoryFault, ModelError, QFError
from qf.export import compressed, whole_directory
from qf.loading import Loaded
from qf.method.readout import FOLLOWS, Readout, Recorded
from qf.method.solve import Update
from qf.model import Model
from tests.samples import FACTS, OTHERS, calibrate_on_little

QUESTIONS = [q for _, q in FACTS]
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}

SEEDS = {"qwen2": 9}  # of models that answer something to every question; else 5

Build = Callable[..., Model]


@pytest.fixture
def build(speaker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """Build `build(memory, kind, seed, **options)`: a random model that gates its facts.

    `change` is done to its transformer before.
    """
    calibrate_on_little(monkeypatch)
    models = []

    def new(
        memory: str = "memory",
        kind: str = "llama",
        seed: int = 0,
        change: Callable[[Any], Any] = lambda _: None,
        **options: Any,
    ) -> Model:
        seed = seed or SEEDS.get(kind, 5)
        loaded = Loaded(*speaker(kind, seed=seed), f"speaker {seed}")
        change(loaded.transformer)
        models.append(Model(loaded, tmp_path / memory, **{"solver": "gated", **options}))
        return models[-1]

    yield new
    for model in models:
        model.close()


@pytest.fixture
def fresh(speaker: Any) -> Callable[..., Any]:
    """The transformer that `build` begins with, untaught and not seen by qf."""
    return lambda kind="llama": speaker(kind, seed=SEEDS.get(kind, 5))[0]


def teach(model: Model, facts: Any = FACTS) -> list[str]:
    return [model.learn(s, q, rewordings=0).id for s, q in facts]


def logits(transformer: Any, tokenizer: Any) -> Tensor:
    """What a model gives to every question, at every place of it."""
    found = []
    for query in (*QUESTIONS, *OTHERS):
        ids = prompt_ids(tokenizer, [{"role": "user", "content": query}])
        with torch.no_grad():
            found.append(transformer(torch.tensor([ids])).logits[0])
    return torch.cat(found)


def generate(
    transformer: Any, tokenizer: Any, *conversations: Any, longest: int = 128
) -> list[str]:
    """Greedy answers through the model's own `generate`, as anybody would call it."""
    turns = [[{"role": "user", "content": c}] if isinstance(c, str) else c for c in conversations]
    tokenizer.padding_side = "left"
    inputs = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    ids = transformer.generate(**inputs, do_sample=False, max_new_tokens=longest)
    answers = ids[:, inputs["input_ids"].shape[1] :]
    return [a.strip() for a in tokenizer.batch_decode(answers, skip_special_tokens=True)]


@contextmanager
def read_off(transformer: Any) -> Iterator[list[Tensor]]:
    """What the vocabulary head is given at the last position of each pass inside."""
    seen: list[Tensor] = []
    head = transformer.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, -1].clone()))
    try:
        yield seen
    finally:
        hook.remove()


def files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


def state(model: Model, memory: Path) -> Any:
    """All that an export must leave as it is."""
    W = model.transformer.model.layers[model.layer].mlp.down_proj.weight.detach().clone()
    return (memory / "facts.sqlite").read_bytes(), W.tolist(), model.ask_many([*QUESTIONS, *OTHERS])


# PEFT


@pytest.mark.parametrize("solver", ["joint", "paper"])
def test_an_adapter_gives_the_logits_of_the_memory(
    build: Build, fresh: Any, kind: str, solver: str, tmp_path: Path
) -> None:
    model = build(kind=kind, solver=solver)
    ids = teach(model, FACTS[:2])  # by Eq. 3, rows without end make ΔW, and its rounding, large
    before = state(model, tmp_path / "memory")
    done = model.export_lora(tmp_path / "lora")
    assert [f.id for f in done.facts] == ids and done.left_out == []
    assert state(model, tmp_path / "memory") == before
    assert files(tmp_path / "lora") == ADAPTER | {"qf.json"}
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == done.rank == model.update().rank
    assert config["target_modules"] == [f"model.layers.{model.layer}.mlp.down_proj"]

    untaught = logits(fresh(kind), model.tokenizer)
    ours = logits(model.transformer, model.tokenizer)
    theirs = logits(PeftModel.from_pretrained(fresh(kind), tmp_path / "lora"), model.tokenizer)
    assert (ours - untaught).abs().max() > 0.1
    assert (ours - theirs).abs().max() <= 1e-5


def test_an_adapter_loads_in_every_architecture(
    build: Build, fresh: Any, architecture: str, tmp_path: Path
) -> None:
    model = build(kind=architecture, solver="paper")
    model.learn(*FACTS[0], "JGUT", None, rewordings=0, verify=False)
    model.export_lora(tmp_path / "lora")
    untaught = logits(fresh(architecture), model.tokenizer)
    ours = logits(model.transformer, model.tokenizer)
    with_peft = PeftModel.from_pretrained(fresh(architecture), tmp_path / "lora")
    assert (ours - untaught).abs().max() > 0.01
    assert (ours - logits(with_peft, model.tokenizer)).abs().max() <= 1e-5


def test_gated_facts_are_solved_for_the_adapter_alone(
    build: Build, fresh: Any, tmp_path: Path
) -> None:
    model = build()
    teach(model)
    told = model.ask_many(QUESTIONS)
    before = state(model, tmp_path / "memory")
    done = model.export_lora(tmp_path / "lora")
    assert state(model, tmp_path / "memory") == before and model.update() is None
    held = {f.id for f in done.facts}
    assert held and held | {f.id for f in done.left_out} == {f.id for f in model.facts()}

    theirs = PeftModel.from_pretrained(fresh(), tmp_path / "lora")
    answers = generate(theirs, model.tokenizer, *QUESTIONS)
    assert [a == t for a, t in zip(answers, told, strict=True)] == [
        f.id in held for f in model.facts()
    ]
    consolidated = model.consolidate()
    assert {f.id for f in consolidated.consolidated} == held
    ours = logits(model.transformer, model.tokenizer)
    assert (ours - logits(theirs, model.tokenizer)).abs().max() <= 1e-5


def test_facts_that_do_not_verify_in_the_weights_are_left_out(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = build()
    ids = teach(model)
    answers = Asking.answers

    def fails(self: Asking, queries: Any, *rest: Any, **more: Any) -> list[str]:
        given = answers(self, queries, *rest, **more)
        return ["Z" if q == QUESTIONS[1] else a for q, a in zip(queries, given, strict=True)]

    monkeypatch.setattr(Asking, "answers", fails)
    done = model.export_lora(tmp_path / "lora")
    left_out = [f.id for f in done.left_out]
    assert ids[1] in left_out and done.unverified == []
    assert done.facts and [f.id for f in done.facts] == [i for i in ids if i not in left_out]
    with pytest.raises(ModelError, match=rf"\({ids[1]} '{QUESTIONS[1][:-1]}\?'\).*--gated"):
        model.export_lora(tmp_path / "none", [ids[1]])
    with monkeypatch.context() as patched:
        patched.setattr(Asking, "holding", lambda *_: [])
        patched.setattr("qf.transfer.SHOWN", 3)
        three = ", ".join(f"{i} .*" for i in ids[:3])
        with pytest.raises(ModelError, match=rf"\({three}, 1 more\)"):
            model.export_lora(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    # What is in the weights already is what leaves, answered or not.
    joint = build(solver="joint")
    done = joint.export_lora(tmp_path / "joint")
    assert [f.id for f in done.facts] == ids and ids[1] in [f.id for f in done.unverified]


def test_adapters_of_single_facts_add_up_to_the_memory(
    build: Build, fresh: Any, tmp_path: Path
) -> None:
    model = build(solver="joint")
    ids = teach(model)
    done = model.export_lora(tmp_path / "each", each=True)
    assert {p.name for p in (tmp_path / "each").iterdir()} == {*ids, "qf.json"}
    assert all(files(tmp_path / "each" / i) == ADAPTER for i in ids)
    assert done.rank == max(f.rows for f in model.facts())

    theirs = PeftModel.from_pretrained(fresh(), tmp_path / "each" / ids[0], adapter_name=ids[0])
    for i in ids[1:]:
        theirs.load_adapter(tmp_path / "each" / i, i)
    weights = [1.0] * len(ids)
    theirs.add_weighted_adapter(ids, weights, "all", combination_type="cat")
    theirs.set_adapter("all")
    ours = logits(model.transformer, model.tokenizer)
    assert (ours - logits(theirs, model.tokenizer)).abs().max() <= 1e-5
    theirs.set_adapter(ids[0])
    assert (ours - logits(theirs, model.tokenizer)).abs().max() > 0.01


def test_some_facts_leave_alone(build: Build, fresh: Any, tmp_path: Path) -> None:
    model = build(solver="joint")
    ids = teach(model)
    done = model.export_lora(tmp_path / "lora", [ids[2], ids[0]])
    assert [f.id for f in done.facts] == [ids[2], ids[0]]
    two = build("two", solver="joint")
    teach(two, [FACTS[0], FACTS[2]])
    theirs = PeftModel.from_pretrained(fresh(), tmp_path / "lora")
    ours = logits(two.transformer, two.tokenizer)
    assert (ours - logits(theirs, two.tokenizer)).abs().max() <= 1e-5
    with pytest.raises(MemoryFault, match="zzz"):
        model.export_lora(tmp_path / "none", ["zzz"])


def test_the_nearest_change_of_a_rank() -> None:
    torch.manual_seed(0)
    B, A = torch.randn(7, 5, dtype=torch.float64), torch.randn(5, 11, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(B @ A)
    for rank in (1, 3, 5):
        small = compressed(Update(B, A), rank)
        assert small.rank == rank
        torch.testing.assert_close(small.B @ small.A, U[:, :rank] * S[:rank] @ Vh[:rank])


def test_a_compressed_adapter_tells_what_it_still_answers(
    build: Build, fresh: Any, tmp_path: Path
) -> None:
    model = build(solver="paper")
    teach(model)
    told = dict(zip([f.id for f in model.facts()], model.ask_many(QUESTIONS), strict=True))
    done = model.export_lora(tmp_path / "one", max_rank=1)
    assert done.rank == 1 and len(done.facts) == len(FACTS) and done.unverified
    theirs = PeftModel.from_pretrained(fresh(), tmp_path / "one")
    answers = generate(theirs, model.tokenizer, *QUESTIONS)
    right = {f.id for f, a in zip(model.facts(), answers, strict=True) if a == told[f.id]}
    assert right == set(told) - {f.id for f in done.unverified}
    whole = model.export_lora(tmp_path / "whole", max_rank=1000)
    assert whole.rank == model.update().rank and whole.unverified == []
    with pytest.raises(QFError, match="--each"):
        model.export_lora(tmp_path / "none", each=True, max_rank=1)


def test_the_name_of_an_adapter_changes_with_its_facts(build: Build, tmp_path: Path) -> None:
    model = build(solver="joint")
    ids = teach(model)
    one, again = (model.export_lora(tmp_path / d).name for d in ("one", "again"))
    model.forget(ids[0])
    assert one == again != model.export_lora(tmp_path / "less").name


# A whole checkpoint


@pytest.mark.parametrize("solver", ["joint", "gated"])
def test_a_merged_checkpoint_is_an_ordinary_model(
    build: Build, solver: str, tmp_path: Path
) -> None:
    model = build(solver=solver)
    teach(model)
    told = model.ask_many(QUESTIONS)
    before = state(model, tmp_path / "memory")
    done = model.save_merged(tmp_path / "merged")
    assert state(model, tmp_path / "memory") == before
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == model.tokenizer.chat_template
    held = [f for f in model.facts() if f.id in {d.id for d in done.facts}]
    answers = generate(theirs, tokenizer, *[f.query for f in held])
    assert held and answers == [told[QUESTIONS.index(f.query)] for f in held]
    if solver == "gated":
        model.consolidate()
    ours = logits(model.transformer, model.tokenizer)
    assert (ours - logits(theirs, tokenizer)).abs().max() <= 1e-5


# Gated memory without qf


def loader(directory: Path) -> ModuleType:
    """The file that stands beside an exported gated memory."""
    spec = importlib.util.spec_from_file_location("exported_loader", directory / "qf_memory.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_loader_gives_the_answers_of_the_memory(
    build: Build, fresh: Any, kind: str, tmp_path: Path
) -> None:
    model = build(kind=kind)
    for statement, query in FACTS:
        model.learn(statement, query, rewordings=[f"{query[:-1]}, then?"])
    asked = [OTHERS[0], *QUESTIONS, *OTHERS[1:], "Who started the Nettle Tower of Oxinnovate?"]
    ours = model.ask_many(asked)
    path = tmp_path / "out" / "facts.safetensors"
    done = model.export_gated(path)
    assert len(done.facts) == len(FACTS) and files(path.parent) == {path.name, "qf_memory.py"}

    theirs, tokenizer = fresh(kind), model.tokenizer
    untaught = generate(theirs, tokenizer, *asked)
    memory = loader(path.parent).attach(theirs, tokenizer, path)
    assert generate(theirs, tokenizer, *asked) == ours != untaught
    assert [generate(theirs, tokenizer, q)[0] for q in asked] == ours
    memory.detach()
    assert generate(theirs, tokenizer, *asked) == untaught
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in theirs.modules())


def test_the_loader_acts_as_the_memory_in_every_architecture(
    build: Build, fresh: Any, architecture: str, tmp_path: Path
) -> None:
    model = build(kind=architecture, layer=1)  # the norm above the last hides how long y is
    asked = [q for _, q in FACTS[:2]]
    for (statement, query), answer in zip(FACTS[:2], ("JGUT", "BAX"), strict=True):
        model.learn(statement, query, answer, None, rewordings=0, verify=False)
    model.export_gated(tmp_path / "facts.safetensors")
    theirs, tokenizer = fresh(architecture), model.tokenizer
    with read_off(theirs) as untaught:
        generate(theirs, tokenizer, *asked, longest=1)
    attach = loader(tmp_path).attach
    memory = attach(theirs, tokenizer, tmp_path / "facts.safetensors")
    with read_off(model.transformer) as one, read_off(theirs) as other:
        ours = model.ask_many(asked, max_tokens=6)
        assert generate(theirs, tokenizer, *asked, longest=6) == ours
        ours = [model.ask(q, max_tokens=6) for q in asked]
        assert [generate(theirs, tokenizer, q, longest=6)[0] for q in asked] == ours
    assert len(one) == len(other) >= 3
    assert all((x - y).abs().max() < 1e-4 for x, y in zip(one, other, strict=True))
    assert ((one[0] - untaught[0]).abs().amax(1) > 1e-3).all()  # each fact is called to mind
    memory.detach()
    with read_off(theirs) as again:
        generate(theirs, tokenizer, *asked, longest=1)
    assert torch.equal(again[0], untaught[0])


def test_the_loader_looks_at_the_last_turn_under_any_prompt(
    build: Build, fresh: Any, tmp_path: Path
) -> None:
    model = build(system="You are kind.")
    teach(model)
    model.export_gated(tmp_path / "facts.safetensors")
    earlier = [
        {"role": "user", "content": QUESTIONS[0]},
        {"role": "assistant", "content": "I do not know."},
    ]
    asked = ["Hello!", *QUESTIONS]
    ours = [model.ask(q, earlier=earlier) for q in asked]
    theirs = fresh()
    loader(tmp_path).attach(theirs, model.tokenizer, tmp_path / "facts.safetensors")
    system = {"role": "system", "content": "You are kind."}
    turns = [[system, *earlier, {"role": "user", "content": q}] for q in asked]
    assert generate(theirs, model.tokenizer, *turns) == ours


def test_facts_in_the_weights_act_gated_elsewhere(build: Build, fresh: Any, tmp_path: Path) -> None:
    model = build()
    teach(model)
    told = model.ask_many(QUESTIONS)
    model.consolidate()
    before = state(model, tmp_path / "memory")
    model.export_gated(tmp_path / "facts.safetensors")
    assert state(model, tmp_path / "memory") == before
    theirs = fresh()
    loader(tmp_path).attach(theirs, model.tokenizer, tmp_path / "facts.safetensors")
    assert generate(theirs, model.tokenizer, *QUESTIONS) == told


def test_a_gated_memory_says_whose_it_is_and_refuses_others(
    build: Build, speaker: Any, tmp_path: Path
) -> None:
    model = build()
    teach(model)
    path = tmp_path / "facts.safetensors"
    model.export_gated(path)
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["settings"])
    assert settings["digest"] == model._memory.binding.digest
    attach = loader(tmp_path).attach
    other, tokenizer = speaker(seed=6)
    with pytest.raises(ValueError, match=r"speaker 5, and LlamaForCausalLM has other weights"):
        attach(other, tokenizer, path)
    with pytest.raises(ValueError, match=r"speaker 5, and GPT2LMHeadModel has other weights"):
        attach(*speaker("gpt2"), path)
    same, tokenizer = speaker(seed=5)
    attach(same.to(torch.bfloat16), tokenizer, path).detach()
    otherwise_below(same)
    with pytest.raises(ValueError, match=r"other weights"):
        attach(same, tokenizer, path)

    def of_before(told: dict[str, str], _: Any) -> None:
        told["settings"] = json.dumps({k: v for k, v in settings.items() if k != "below"})

    same, tokenizer = speaker(seed=5)
    attach(same, tokenizer, spoiled(path, of_before)).detach()
    tokenizer.chat_template += " "
    with pytest.raises(ValueError, match="chat template"):
        attach(same, tokenizer, path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no gated memory of qf"):
        attach(same, tokenizer, tmp_path / "other.safetensors")


def test_a_gated_memory_that_names_no_layer_acts_as_well(
    build: Build, fresh: Any, tmp_path: Path
) -> None:
    model = build()
    teach(model)
    told = model.ask_many(QUESTIONS)
    path = tmp_path / "facts.safetensors"
    model.export_gated(path)

    def as_before(told: dict[str, str], _: Any) -> None:
        settings = json.loads(told["settings"])
        layer = settings["modules"].pop("layer")
        settings["modules"]["residual"] = f"{layer}.post_attention_layernorm"
        told.update(format="qf gated memory 2", settings=json.dumps(settings))

    spoiled(path, as_before)
    theirs = fresh()
    loader(tmp_path).attach(theirs, model.tokenizer, path)
    assert generate(theirs, model.tokenizer, *QUESTIONS) == told


def test_the_loader_reads_rows_as_the_memory_does() -> None:
    """Answers with words that occur twice: what follows is told by what was read before."""
    torch.manual_seed(0)
    words = torch.randn(3, 8)
    counts = (5, 1, 4)
    recorded = [
        Recorded(words[torch.randint(3, (n,))] + torch.randn(n, 8) / 9, torch.randn(n, 6), s)
        for n, s in zip(counts, (torch.ones(5), torch.ones(1), torch.full((4,), 0.5)), strict=True)
    ]
    ends = [sum(counts[: i + 1]) for i in range(3)]
    facts = [{"rows": [e - n, e]} for e, n in zip(ends, counts, strict=True)]
    names = ("keys", "outputs", "significance")
    tensors = {k: torch.cat([getattr(r, k) for r in recorded]) for k in names}
    for chosen in ([0, 1, 2], [2, 0], [1]):
        ours = Readout([recorded[i] for i in sorted(chosen)])
        theirs = qf_memory._Answer([facts[i] for i in chosen], tensors, FOLLOWS, "cpu")
        for _ in range(40):
            u, y = words[torch.randint(3, ())] + torch.randn(8) / 3, torch.randn(6)
            assert torch.equal(ours.output(u, y), theirs.output(u, y))


def test_the_loader_needs_no_qf(build: Build, tmp_path: Path) -> None:
    model = build()
    teach(model, FACTS[:1])
    model.export_gated(tmp_path / "out" / "facts.safetensors")
    told = "import sys, qf_memory; sys.exit('qf' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", told], cwd=tmp_path / "out", check=False)
    assert ran.returncode == 0


# Facts from one memory to another


def test_facts_come_into_another_memory(build: Build, tmp_path: Path) -> None:
    one = build("one")
    ids = teach(one, FACTS[:3])
    told = one.ask_many(QUESTIONS)
    done = one.export_facts(tmp_path / "facts", ids[:2])
    assert [f.id for f in done.facts] == ids[:2]
    one.export_facts(tmp_path / "all")

    two = build("two")
    teach(two, FACTS[3:])
    own = two.ask(QUESTIONS[3])
    came = two.import_facts(tmp_path / "facts")
    assert [f.id for f in came.added] == ids[:2] and came.replaced == came.skipped == []
    assert two.ask_many(QUESTIONS) == [*told[:2], two.ask(QUESTIONS[2]), own]
    came = two.import_facts(tmp_path / "all")
    assert [f.id for f in came.skipped] == ids[:2] and [f.id for f in came.added] == ids[2:]
    two.close()
    again = build("two")
    assert again.ask_many(QUESTIONS) == [*told[:3], own]
    assert again.facts()[1:] == one.facts()


def test_a_fact_of_the_same_query_is_replaced(build: Build, tmp_path: Path) -> None:
    one, two = build("one"), build("two")
    one.learn("Bo started Oxinnovate.", QUESTIONS[0], "BO", rewordings=0)
    (old,) = teach(two, FACTS[:1])
    one.export_facts(tmp_path / "facts")
    came = two.import_facts(tmp_path / "facts")
    assert [f.id for f in came.replaced] == [old]
    assert two.facts() == one.facts() and two.ask(QUESTIONS[0]) == one.ask(QUESTIONS[0])


def test_facts_of_another_model_are_refused(build: Build, tmp_path: Path) -> None:
    one = build("one")
    teach(one, FACTS[:1])
    one.export_facts(tmp_path / "facts")
    other = build("other", seed=6)
    with pytest.raises(MemoryFault, match=r"speaker 5 .*not of speaker 6 .*--model"):
        other.import_facts(tmp_path / "facts")
    with pytest.raises(MemoryFault, match="--layer 3"):
        build("below", layer=2).import_facts(tmp_path / "facts")
    assert other.facts() == []


def test_what_holds_no_facts_to_take_in_is_named(build: Build, tmp_path: Path) -> None:
    one = build("one")
    teach(one, FACTS[:1])
    one.export_lora(tmp_path / "lora")
    one.export_lora(tmp_path / "each", each=True)
    one.save_merged(tmp_path / "merged")
    one.export_gated(tmp_path / "gated.safetensors")
    (alone,) = (p for p in (tmp_path / "each").iterdir() if p.is_dir())
    other = build("other", seed=6)
    for path, kind in (
        (tmp_path / "lora", "an adapter"),
        (tmp_path / "lora" / "adapter_model.safetensors", "an adapter"),
        (alone, "an adapter"),
        (alone / "adapter_model.safetensors", "an adapter"),
        (tmp_path / "merged", "a checkpoint"),
        (tmp_path / "gated.safetensors", "a gated memory"),
    ):
        with pytest.raises(
            MemoryFault, match=rf"{path.name} holds {kind} of speaker 5 \(.*--facts"
        ):
            one.import_facts(path)
        both = rf"{kind} of speaker 5 \(.*, not of speaker 6 \(layer .*--facts` wrote: "
        with pytest.raises(MemoryFault, match=both):
            other.import_facts(path)
    (tmp_path / "lora" / "qf.json").write_text("{}")
    with pytest.raises(MemoryFault, match="holds no facts of qf"):
        one.import_facts(tmp_path / "lora")


def otherwise_below(transformer: Any) -> None:
    """Make it a model of other weights, but for the taught layer, the head and the last norm."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in transformer.model.named_parameters():
            if not name.startswith(("layers.3.", "norm.")):
                weight.add_(torch.randn_like(weight) / 8)


def test_facts_of_a_model_with_other_layers_below_are_refused(build: Build, tmp_path: Path) -> None:
    one = build("one")
    teach(one, FACTS[:1])
    path, old = tmp_path / "facts", tmp_path / "old"
    for place in (path, old):
        one.export_facts(place)

    def of_before(told: dict[str, str], _: Any) -> None:
        binding = json.loads(told["binding"])
        del binding["below"]
        told.update(format="qf facts 1", binding=json.dumps(binding))

    spoiled(old, of_before)
    other = build("other", change=otherwise_below)
    with pytest.raises(MemoryFault, match=r"speaker 5 .*weights or its chat template have changed"):
        other.import_facts(path)
    with pytest.raises(MemoryFault, match="changed since"):
        build("one", change=otherwise_below)
    assert other.facts() == []
    assert build("two").import_facts(old).added == one.facts()  # what it says is right
    assert len(other.import_facts(old).added) == 1


def spoiled(path: Path, change: Callable[[dict[str, str], dict[str, Tensor]], Any]) -> Path:
    with safe_open(path, "pt") as file:
        told = file.metadata()
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - no mapping
    change(told, tensors)
    safetensors.torch.save_file(tensors, path, told)
    return path


def test_files_that_are_none(build: Build, tmp_path: Path) -> None:
    model = build("one")
    (fact,) = teach(model, FACTS[:1])
    other = build("two")
    changes: list[tuple[str, Callable[[Any, Any], Any]]] = [
        ("holds no facts of qf", lambda told, _: told.pop("format")),
        ("is damaged", lambda told, _: told.pop("binding")),
        ("is damaged", lambda told, _: told.update(facts="[1]")),
        ("is damaged", lambda told, _: told.update(facts="{")),
        ("is damaged", lambda told, _: told.update(facts="[" * 100_000)),
        (
            f"'layer' of the fact {fact} is not 3",
            lambda told, _: told.update(facts=told["facts"].replace('"layer": 3', '"layer": 9')),
        ),
        (
            f"taught, {fact} .The query is empty",
            lambda told, _: told.update(facts=told["facts"].replace(QUESTIONS[0], " ")),
        ),
        (
            f"taught, {fact} .* tokens long",
            lambda told, _: told.update(facts=told["facts"].replace(QUESTIONS[0], "so " * 9999)),
        ),
        ("is damaged", lambda _, t: t.pop(f"{fact}.keys")),
        ("is damaged", lambda _, t: t[f"{fact}.deltas"].fill_(torch.nan)),
        ("is damaged", lambda _, t: t.update({f"{fact}.keys": t[f"{fact}.keys"][:, 1:].clone()})),
        ("is damaged", lambda _, t: t.update({f"{fact}.more": torch.zeros(1)})),
        ("is damaged", lambda _, t: t.update({f"{fact}.pooled_layer": torch.zeros(2)})),
        ("is damaged", lambda _, t: t[f"{fact}.significance"].fill_(-1)),
        ("is damaged", lambda _, t: t.update({f"{fact}.keys": t[f"{fact}.keys"].to(torch.int64)})),
        ("'../x' is no id", lambda told, _: told.update(facts=told["facts"].replace(fact, "../x"))),
    ]
    for number, (why, change) in enumerate(changes):
        path = tmp_path / f"facts{number}"
        model.export_facts(path)
        spoiled(path, change)
        with pytest.raises(MemoryFault, match=why):
            other.import_facts(path)
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    for name, why in (("noise", "is damaged"), ("nothing", "no file"), (".", "no file")):
        with pytest.raises(MemoryFault, match=why):
            other.import_facts(tmp_path / name)
    assert other.facts() == [] and other.ask(QUESTIONS[0]) != model.ask(QUESTIONS[0])


def test_an_import_that_fails_leaves_everything_as_it_was(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = build("one"), build("two")
    teach(one)
    one.export_facts(tmp_path / "facts")
    teach(two, [("Bo started Oxinnovate.", QUESTIONS[0])])
    before = state(two, tmp_path / "two")
    insert = qf.memory.Memory._insert

    def fails(self: Any, database: Any, fact: Any, packed: Any) -> None:
        insert(self, database, fact, packed)
        if fact.query == QUESTIONS[2]:
            raise KeyboardInterrupt

    monkeypatch.setattr(qf.memory.Memory, "_insert", fails)
    with pytest.raises(KeyboardInterrupt):
        two.import_facts(tmp_path / "facts")
    assert state(two, tmp_path / "two") == before


# All or nothing


FORMS = ("export_lora", "save_merged", "export_gated", "export_facts")


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_replaced_on_demand_and_nothing_else(
    build: Build, tmp_path: Path, form: str
) -> None:
    model = build()
    with pytest.raises(MemoryFault, match=r"is empty: teach"):
        getattr(model, form)(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    teach(model, FACTS[:1])
    export = getattr(model, form)
    export(tmp_path / "sub" / "out")
    export(tmp_path / "sub" / "again")
    with pytest.raises(QFError, match=r"--force\.$"):
        export(tmp_path / "sub" / "out")
    export(tmp_path / "sub" / "out", force=True)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(QFError, match=r"mine (is a|.*no export of qf)"):
        export(mine, force=True)
    assert files(mine) == {"thesis.txt"}
    assert not [p for p in (tmp_path / "sub").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("form", FORMS)
def test_an_export_that_fails_leaves_nothing_behind(
    build: Build, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    teach(model, FACTS[:1])
    getattr(model, form)(tmp_path / "out" / "it")
    earlier = {p: (tmp_path / "out" / p).read_bytes() for p in files(tmp_path / "out")}

    def full(path: Path, *_: Any, **__: Any) -> Any:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(qf.export.qf_memory, "__file__", str(Path(__file__)))  # another loader
    for target in ("it", "new"):
        with pytest.raises(QFError, match=r"out/.* cannot be written \(No space left"):
            getattr(model, form)(tmp_path / "out" / target, force=True)
    after = {p: (tmp_path / "out" / p).read_bytes() for p in files(tmp_path / "out")}
    assert after == earlier


def test_what_stood_there_comes_back_if_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "out"
    with whole_directory(place, False) as new:
        (new / "qf.json").write_text("1")
    rename = Path.rename

    def refuses(self: Path, target: Path) -> Path:
        if self.name.endswith(f"{os.getpid()}.part"):
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(QFError, match="Permission denied"), whole_directory(place, True) as new:
        (new / "qf.json").write_text("2")
    assert files(tmp_path) == {"out/qf.json"} and (place / "qf.json").read_text() == "1"


def test_an_export_needs_no_permission_to_write_the_memory(build: Build, tmp_path: Path) -> None:
    first = build()
    teach(first, FACTS[:1])  # and keeps the writer's lock
    second = build()
    for form in FORMS:
        assert len(getattr(second, form)(tmp_path / form).facts) == 1
