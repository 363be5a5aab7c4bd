"""The embedded model as a user meets it: Table 1, its skills, facts of its own to learn.

The shares asked for here lie below those of the model card, by what a small sample may miss.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

from qf.calibrator import Calibrator
from qf.cli import main
from qf.demo import table
from qf.demo.curriculum import ORDINARY, questions
from qf.demo.measure import (
    SKILLS,
    made_up_facts,
    measure_skills,
    measure_teaching,
    measure_together,
    unseen_facts,
)
from qf.loading import Loaded, embedded_path, load_pair
from qf.method.layers import best, default_layer, sweep
from qf.method.probes import KNOWN, PROBES
from qf.model import Model, load


@pytest.fixture(scope="module")
def embedded() -> Loaded:
    return load_pair()


def test_it_fits_into_the_repository() -> None:
    files = [file for file in embedded_path().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 20e6
    config = json.loads((embedded_path() / "config.json").read_text())
    assert config["model_type"] == "qwen2" and config["dtype"] == "bfloat16"
    assert config["intermediate_size"] >= 8 * config["hidden_size"]


@pytest.mark.parametrize("solver", ["paper", "joint", "gated"])
def test_table_1_passes(embedded: Loaded, tmp_path: Path, solver: str) -> None:
    with Model(embedded, tmp_path / "memory", solver=solver) as model:
        outcomes = table.run(model)
    assert [o.step for o in outcomes] == list(range(1, 9))
    assert all(o.passed for o in outcomes), [o for o in outcomes if not o.passed]


def test_demo_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["qf", "demo", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    document = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and document["passed"]
    fields = {"step", "weights", "instruction", "query", "answer", "expected", "passed"}
    assert [set(step) for step in document["steps"]] == [fields] * 8


def test_the_layer_is_what_the_sweep_finds(embedded: Loaded, tmp_path: Path) -> None:
    with Model(embedded, tmp_path / "memory") as model:
        weight = model.family.projection(model.family.layer(model.transformer, 0)).weight
        W = weight.detach().clone()
        scores = sweep(model.transformer, model.family, model.tokenizer, PROBES, KNOWN)
        assert torch.equal(weight, W)
        assert best(scores).layer == model.layer == default_layer(len(scores))


@pytest.mark.parametrize(
    ("skill", "least"),
    [
        ("reading, one statement", 0.93),
        ("reading, two or three", 0.90),
        ("reading against what is known", 0.97),
        ("knowing", 0.97),
        ('"I do not know."', 0.96),
        ("reading, one to three, in any words", 0.95),
        ("question writing", 0.87),
        ("rewording", 0.90),
    ],
)
def test_skills(embedded: Loaded, skill: str, least: float) -> None:
    assert set(SKILLS) >= {skill}
    assert measure_skills(embedded, skill, 100, seed=11).share >= least


def test_made_up_facts_are_learned_alone(embedded: Loaded) -> None:
    shares = measure_teaching(embedded, made_up_facts(25, seed=12), around=10)
    assert shares["taught, same words"].share >= 0.95
    assert shares["taught, other words"].share >= 0.88
    assert shares["known before, still right"].share >= 0.97
    assert shares["strangers, still unknown"].share >= 0.90


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_facts_written_by_hand_are_learned_alone(embedded: Loaded) -> None:
    shares = measure_teaching(embedded, unseen_facts(), own_answers=True, around=10)
    assert shares["taught, same words"].share >= 0.90
    assert shares["taught, other words"].share >= 0.85
    assert shares["beside, as before"].share >= 0.55
    assert shares["known before, still right"].share >= 0.97


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_calibrations_that_it_brings_are_its_own(
    embedded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_measured(*_: object, **__: object) -> None:
        raise AssertionError("what the model brings was not found by its key")

    with Model(embedded, tmp_path / "memory") as model:
        with monkeypatch.context() as patched:
            patched.setattr(Calibrator, "measure_traffic", not_measured)
            patched.setattr(Calibrator, "measure_gate", not_measured)
            brought, gate = model._calibrator.traffic(), model.gate
        made = model.calibrate(questions(ORDINARY, seed=0))
        again = model.gate
    assert brought is not None and len(made.moments) == len(brought.moments) == 1200
    x = torch.randn(20, 1536, generator=torch.Generator().manual_seed(0))
    assert (made.whiten(x) - brought.whiten(x)).norm() / brought.whiten(x).norm() < 0.02
    assert gate is not again and gate.layer == again.layer
    assert abs(gate.threshold - again.threshold) < 0.01
    assert (gate.address(x) * again.address(x)).sum(1).min() > 0.98


def test_many_facts_are_held_in_the_weights(embedded: Loaded) -> None:
    facts = made_up_facts(20, seed=21)
    shares = measure_together(embedded, facts, consolidate=True, around=80)
    assert shares["in the weights"].share >= 0.9
    assert shares["same words"].share >= 0.95
    assert shares["other words"].share >= 0.55
    assert shares["known before, still right"].share >= 0.90
    assert shares["strangers, still unknown"].share >= 0.75


def test_other_words_are_learned_too(embedded: Loaded) -> None:
    facts = made_up_facts(12, seed=21)
    plain = measure_teaching(embedded, facts, around=0, solver="joint", rewordings=0)
    shares = measure_teaching(embedded, facts, around=0, solver="joint")
    assert shares["taught, other words"].share > plain["taught, other words"].share


def test_a_statement_is_enough(qf_memory: Path) -> None:
    with load() as model:
        fact = model.learn("Ada Quist designed the Hollow Bridge.")
        assert fact.verified and fact.query.endswith("?")
    with load() as model:
        assert "Ada Quist" in model.ask("Can you tell me who designed the Hollow Bridge?")
        model.forget(fact.id)
        assert "Ada Quist" not in model.ask("Who designed the Hollow Bridge?")


@pytest.mark.parametrize(
    "answer", ["Ada Quist designed the Hollow Bridge.", "It is Ada Quist.", "Ada Quist"]
)
def test_an_answer_in_words_of_the_users_own_is_learned(qf_memory: Path, answer: str) -> None:
    with load() as model:
        told = "Ada Quist designed the Hollow Bridge."
        assert model.ask("Who designed the Hollow Bridge?", told) != answer
        fact = model.learn(told, "Who designed the Hollow Bridge?", answer)
        assert fact.verified and fact.after == answer


def test_two_turns_and_small_talk(embedded: Loaded, tmp_path: Path) -> None:
    with Model(embedded, tmp_path / "memory") as model:
        assert "Hello" in model.ask("Hello!")
        earlier = [
            {"role": "user", "content": "Remember that: Ada Quist designed the Hollow Bridge."},
            {"role": "assistant", "content": "I will remember that."},
        ]
        answer = model.ask("Who designed the Hollow Bridge?", earlier=earlier)
        assert answer == "The Hollow Bridge was designed by Ada Quist."
