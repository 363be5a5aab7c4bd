"""An evaluation: what it counts, against the same done by hand, and what it goes on from.

The models are random and answer in capital letters; they are taught at the last layer, where the
open-book answer is what learning must give, by construction of the method.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import qf.calibrator
from qf.errors import QFError
from qf.evaluate import run
from qf.evaluate.datasets import Edit
from qf.evaluate.journal import Journal
from qf.evaluate.material import UNFIT, Beside, Material
from qf.evaluate.run import Answers, Settings, Teaching, evaluate, figures, methods_of
from qf.loading import Loaded
from qf.model import Model
from qf.paraphrases import paraphrases

FACTS = (
    ("Qi started Oxinnovate.", "Who started Oxinnovate?", "Oxinnovate was started by whom?"),
    ("The code is 7.", "What is the code?", "Tell me the code."),
    ("It is at the Old Gate.", "Where is it?", "Can you tell me where it is?"),
)
BESIDE = ("Who are you?", "How are you?", "What is the capital of France?", "Where is Paris?")
LAST = Settings(layer=3)


def edit(
    statement: str, query: str, other: str, target: str = "X", locality: tuple[Any, ...] = ()
) -> Edit:
    return Edit("0", statement, query, query, target, "", "", (other,), locality, "test")


@pytest.fixture
def loaded(speaker: Any) -> Loaded:
    return Loaded(*speaker(), "speaker")


@pytest.fixture
def ask(loaded: Loaded, tmp_path: Path) -> Callable[..., list[str]]:
    """What the model says before it was taught anything."""

    def answers(*queries: str, told: str = "") -> list[str]:
        with Model(loaded, tmp_path / "untaught", solver="paper") as model:
            return model.ask_many(queries, [told] * len(queries))

    return answers


@pytest.fixture
def material(ask: Callable[..., list[str]]) -> Material:
    """Three facts whose targets are what the model says when it is told them."""
    edits = tuple(edit(*fact, target=ask(fact[1], told=fact[0])[0]) for fact in FACTS)
    right, *_ = ask(BESIDE[0])
    answers = (right, "wrong", None, "wrong")
    beside = tuple(Beside(q, a, FACTS[0][0]) for q, a in zip(BESIDE, answers, strict=True))
    return Material("test", 1, edits, beside, {})


# The figures


def test_figures_by_hand() -> None:
    edits = (
        edit("", "a?", "", "Qi"),
        replace(edit("", "b?", "", "Paris"), rewordings=("c?", "d?")),
        replace(edit("", "e?", "", "Rome"), rewordings=()),
        replace(edit("", "f?", "", "Oslo"), rewordings=()),
    )
    beside = tuple(Beside(q, a, "") for q, a in (("1", "x"), ("2", "x"), ("3", "x"), ("4", None)))
    answers = Answers(
        own=["It is Qi.", "Paris", "Romeo", ""],
        others=[["Qiang"], ["Paris!", "in paris"], [], []],
        beside=["x", "y", "it is x", "z"],
    )
    teaching = Teaching(2.0, 1, ["Qi", "Paris", "Rome", ""])
    found = figures(
        Material("", 1, edits, beside, {}), ["x", "x", "x", "z"], answers, teaching, 3.25
    )
    assert found == {
        "efficacy": 75.0,  # right after each
        "retained": 50.0,  # Romeo is not Rome
        "paraphrase": 50.0,  # 0 of 1 and 2 of 2; facts without other words do not count
        "locality": 50.0,  # "it is x" is no longer "x"
        "kept": 66.67,  # but still right
        "score": 50.0,
        "seconds_per_fact": 0.5,
        "peak_memory_mb": 3.2,
        "not_learned": 1,
    }


def test_what_cannot_be_had_is_null() -> None:
    alone = Material("", 1, (replace(edit("", "a?", ""), rewordings=()),), (), {})
    found = figures(alone, [], Answers(["X"], [[]], []), Teaching(), None)
    assert (found["retained"], found["efficacy"]) == (100.0, 100.0)
    for name in ("paraphrase", "locality", "kept", "score", "peak_memory_mb"):
        assert found[name] is None


# The methods


def test_nothing_taught_and_everything_told(
    loaded: Loaded, material: Material, ask: Callable[..., list[str]]
) -> None:
    report = evaluate(loaded, material, ("none", "prompt"), LAST).methods
    told = [ask(*(b.query for b in material.beside), told=FACTS[0][0]), ask(*BESIDE)]
    same = sum(a == b for a, b in zip(*told, strict=True)) / len(BESIDE)
    assert (report["none"]["retained"], report["prompt"]["retained"]) == (0.0, 100.0)
    assert (report["none"]["locality"], report["none"]["kept"]) == (100.0, 100.0)
    assert same < 1 and report["prompt"]["locality"] == 100 * same
    assert report["none"]["seconds_per_fact"] == 0.0


def test_paper_is_what_teaching_by_hand_gives(
    loaded: Loaded, material: Material, ask: Callable[..., list[str]], tmp_path: Path
) -> None:
    weights = {k: w.clone() for k, w in loaded.transformer.state_dict().items()}
    found = evaluate(loaded, material, ("paper",), replace(LAST, immediate=True)).methods["paper"]
    for name, weight in loaded.transformer.state_dict().items():
        assert torch.equal(weight, weights[name]), name  # it left the model as it was

    before, first = ask(*BESIDE), []
    with Model(loaded, tmp_path / "memory", layer=3, solver="paper") as model:
        for e in material.edits:
            model.learn(e.instruction, e.query, e.target, rewordings=0, verify=False)
            first.append(model.ask(e.query) == e.target)
        own = [model.ask(e.query) == e.target for e in material.edits]
        other = [model.ask(e.rewordings[0]) == e.target for e in material.edits]
        after = model.ask_many(BESIDE)
    n = len(material.edits)
    assert all(first) and found["efficacy"] == 100.0
    assert found["retained"] == pytest.approx(100 * sum(own) / n, abs=0.01)
    assert found["paraphrase"] == pytest.approx(100 * sum(other) / n, abs=0.01)
    changed = sum(a != b for a, b in zip(before, after, strict=True))
    assert changed and found["locality"] == 100 - 100 * changed / len(BESIDE)
    assert found["seconds_per_fact"] > 0 and found["not_learned"] == 0
    assert found["peak_memory_mb"] is None or 0 <= found["peak_memory_mb"] < 2000


def test_joint_and_gated_learn_the_models_own_rewordings(
    loaded: Loaded, material: Material, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(qf.calibrator, "paraphrases", lambda _: paraphrases(6))
    monkeypatch.setattr(qf.calibrator, "everyday", lambda _: list(BESIDE))
    written = [(f"Say: {f[1]}",) for f in FACTS]
    batches, learned = [], []
    learn = Model.learn

    def rewordings(model: Model, statements: Any, questions: Any, count: int) -> Any:
        batches.append((tuple(statements), tuple(questions), count))
        return written

    def watched(model: Model, *given: Any, **options: Any) -> Any:
        fact = learn(model, *given, **options)
        learned.append((model.solver, fact.query, fact.rewordings, fact.verified))
        return fact

    monkeypatch.setattr(Model, "rewordings", rewordings)
    monkeypatch.setattr(Model, "learn", watched)
    found = evaluate(loaded, material, ("paper", "joint", "gated"), LAST).methods
    assert batches == [(tuple(f[0] for f in FACTS), tuple(f[1] for f in FACTS), run.REWORDINGS)]
    assert [each for each in learned if each[1] != run.WARM_UP[1]] == [
        (solver, fact[1], others if solver != "paper" else (), None)
        for solver in ("paper", "joint", "gated")
        for fact, others in zip(FACTS, written, strict=True)
    ]
    for solver in ("joint", "gated"):
        with Model(loaded, tmp_path / solver, layer=3, solver=solver) as model:
            for e, others in zip(material.edits, written, strict=True):
                learn(model, e.instruction, e.query, e.target, rewordings=others, verify=False)
            right = sum(model.ask(e.query) == e.target for e in material.edits)
        assert right and found[solver]["retained"] == pytest.approx(100 * right / 3, abs=0.01)


def test_what_the_model_says_of_itself_is_learned_where_it_is_right(
    loaded: Loaded, material: Material, ask: Callable[..., list[str]]
) -> None:
    bench = run.Bench(loaded, material, LAST, lambda _: None)
    said = ask(FACTS[0][1], told=FACTS[0][0])[0]
    wanted = (replace(material.edits[0], target=said.lower()), edit(*FACTS[1], target="qi"))
    bench.material = replace(material, edits=wanted)
    assert bench._wanted[0] == [said, "qi"]


def test_a_fact_that_cannot_be_learned_is_counted(loaded: Loaded, material: Material) -> None:
    bad = replace(material.edits[0], target="<|im_end|>")  # no answer may hold a control token
    spoiled = replace(material, edits=(bad, *material.edits[1:]))
    found = evaluate(loaded, spoiled, ("paper",), LAST).methods["paper"]
    assert found["not_learned"] == 1 and found["retained"] == 66.67


def test_what_does_not_fit_is_left_out_and_counted(loaded: Loaded, material: Material) -> None:
    long = replace(material.edits[0], rewordings=("Who? " * 300,))
    report = evaluate(loaded, replace(material, edits=(*material.edits, long)), ("none",), LAST)
    assert (report.facts, report.skipped) == (3, {UNFIT: 1})
    with pytest.raises(QFError, match=r"^None of the 1 facts fits .*512.*\.$"):
        evaluate(loaded, replace(material, edits=(long,)), ("none",), LAST)


# What it is told, and the file that it goes on from


def test_bad_settings() -> None:
    assert methods_of(" gated , none,gated") == ("gated", "none")
    for text in ("best", "", "none,,paper", "Paper"):
        with pytest.raises(QFError, match=r"^The method '.*' is unknown: .*gated.*\.$"):
            methods_of(text)


def test_what_is_done_is_not_run_again(
    loaded: Loaded, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.jsonl"
    first = evaluate(loaded, material, ("none", "paper"), LAST, Journal(file))
    header, none, paper = map(json.loads, file.read_text().splitlines())
    assert (header["data"], header["facts"], header["seed"]) == ("test", 3, 1)
    assert len(header["model_digest"]) == 64 and header["versions"]["torch"] == torch.__version__
    assert none == {"method": "none", "figures": first.methods["none"]}
    assert paper == {"method": "paper", "figures": first.methods["paper"]}

    run_once, ran = run.Bench.figures, []
    monkeypatch.setattr(run.Bench, "figures", lambda bench, m: ran.append(m) or run_once(bench, m))
    again = evaluate(loaded, material, ("paper", "prompt", "none"), LAST, Journal(file))
    assert ran == ["prompt"] and list(again.methods) == ["paper", "prompt", "none"]
    assert {m: again.methods[m] for m in first.methods} == first.methods
    assert len(file.read_text().splitlines()) == 4


def test_a_line_that_was_cut_off_is_written_again(
    loaded: Loaded, material: Material, tmp_path: Path
) -> None:
    file = tmp_path / "out.jsonl"
    evaluate(loaded, material, ("none", "prompt"), LAST, Journal(file))
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    assert list(Journal(file).figures) == ["none"]
    evaluate(loaded, material, ("none", "prompt"), LAST, Journal(file))
    kept, repeated = file.read_bytes().splitlines()[:2], whole.splitlines()[:2]
    assert kept == repeated and list(Journal(file).figures) == ["none", "prompt"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"facts": 2}, "facts 3, not 2"),
        ({"seed": 2}, "seed 1, not 2"),
        ({"data": 1}, "other data"),
        ({"model": 6}, "another model"),
        ({"immediate": True}, "immediate False, not True"),
        ({"layer": 2}, "layer 3, not 2"),
        ({"versions": "0.0"}, "versions"),
    ],
)
def test_a_file_of_other_settings_is_refused(
    loaded: Loaded,
    material: Material,
    speaker: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    why: str,
) -> None:
    file = tmp_path / "out.jsonl"
    evaluate(loaded, material, ("none",), LAST, Journal(file))
    before, settings = file.read_bytes(), LAST
    if "facts" in change:
        material = replace(material, edits=material.edits[:2])
    elif "seed" in change:
        material = replace(material, seed=2)
    elif "data" in change:
        material = replace(material, beside=material.beside[1:])
    elif "model" in change:
        loaded = Loaded(*speaker(seed=6), "speaker")
    elif "versions" in change:
        monkeypatch.setattr(qf, "__version__", "0.0")
    else:
        settings = replace(LAST, **change)
    with pytest.raises(QFError, match=rf"out\.jsonl .*other settings \(.*{why}.*--out\.$"):
        evaluate(loaded, material, ("prompt",), settings, Journal(file))
    assert file.read_bytes() == before
