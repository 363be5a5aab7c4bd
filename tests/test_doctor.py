"""`qf doctor`: what it says of models and memories that are well, and of those that are not."""

import json
import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from qf.doctor import PACKAGES, Finding, Report, examine, public
from qf.loading import Loaded
from qf.model import Model
from tests.samples import FACTS, calibrate_on_little

STEPS = [
    "versions", "devices", "model", "family", "layer", "template", "memory", "calibration",
    "self-test",
]  # fmt: skip
REJECTING = (
    "{%- if messages[0]['role'] == 'system' -%}{{ raise_exception('System role not supported') }}"
    "{%- endif -%}{%- for m in messages -%}"
    "{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

Teach = Callable[..., Model]


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    calibrate_on_little(monkeypatch)


@pytest.fixture
def teach(speaker: Any, qf_memory: Path) -> Teach:
    """Build `teach(count, **options)`: that many facts are in the memory, under a closed model."""

    def new(count: int, **options: Any) -> Model:
        with Model(Loaded(*speaker(), "speaker"), qf_memory, **options) as model:
            for statement, question in FACTS[:count]:
                model.learn(statement, question, rewordings=0)
        return model

    return new


def found(report: Report, name: str) -> Finding:
    (one,) = (f for f in report.findings if f.name == name)
    return one


def test_a_healthy_model_passes_every_step(speaker: Any, teach: Teach) -> None:
    teach(2)
    report = examine(speaker())
    assert [f.name for f in report.findings] == STEPS and report.healthy
    assert {f.name: f.status for f in report.findings} == dict.fromkeys(STEPS, "ok")
    assert f"torch {torch.__version__}" in found(report, "versions").text
    assert found(report, "family").text == "llama, exact"
    assert found(report, "layer").text.startswith("3 of 0 to 3; W is 32 × 96, float32, on cpu")
    assert "with a system turn, no thinking, no tools" in found(report, "template").text
    assert "2 facts in …/memory (2 gated)" in found(report, "memory").text
    assert "gated: learned in" in found(report, "self-test").text
    assert "bit for bit" in found(report, "self-test").text
    assert set(PACKAGES) >= {"torch", "transformers", "peft", "accelerate"}


def test_a_memory_that_is_not_there_takes_no_words_away(speaker: Any, qf_memory: Path) -> None:
    report = examine(speaker())
    assert "GiB of memory, " in found(report, "devices").text
    assert found(report, "memory").text == "no facts in …/memory"


def test_it_leaves_model_and_memory_as_they_are(
    speaker: Any, teach: Teach, qf_memory: Path
) -> None:
    teach(1)
    transformer, tokenizer = speaker()
    before = {k: v.clone() for k, v in transformer.state_dict().items()}
    files = {p.name: p.read_bytes() for p in qf_memory.iterdir()}
    assert examine((transformer, tokenizer)).healthy
    assert all(torch.equal(v, before[k]) for k, v in transformer.state_dict().items())
    assert {p.name: p.read_bytes() for p in qf_memory.iterdir()} == files


def test_without_facts_and_calibration_it_tests_equation_3(speaker: Any, qf_memory: Path) -> None:
    report = examine(speaker())
    assert report.healthy and not qf_memory.exists()
    assert "no facts" in found(report, "memory").text
    assert "not measured yet" in found(report, "calibration").text
    assert "paper: learned in" in found(report, "self-test").text


def test_what_each_fact_does_is_counted(speaker: Any, teach: Teach) -> None:
    model = teach(3)
    with Model(Loaded(*speaker(), "speaker"), model._memory.directory) as again:
        again.consolidate()
        done = sum(f.consolidated for f in again.facts())
        again.learn("A is B.", "Who is it?", "unsayable", rewordings=0)
    memory = found(examine(speaker()), "memory")
    assert done and f"{done} consolidated" in memory.text
    assert memory.status == "warning" and "1 not verified" in memory.text


@pytest.mark.parametrize("damage", ["rows", "file", "foreign", "forbidden"])
def test_a_memory_that_is_not_well_is_a_problem(
    speaker: Any, teach: Teach, qf_memory: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact = teach(1).facts()[0]
    file, other = qf_memory / "facts.sqlite", {}
    if damage == "rows":
        with closing(sqlite3.connect(file)) as database:
            database.execute("UPDATE tensors SET content = x'00'")
            database.commit()
    elif damage == "file":
        content = bytearray(file.read_bytes())
        for page in range(4096, len(content), 4096):
            content[page : page + 64] = b"\xff" * 64
        file.write_bytes(bytes(content))
    elif damage == "foreign":
        other = {"seed": 6}
    else:
        monkeypatch.setattr(os, "access", lambda *_: False)
    report = examine(speaker(**other))
    memory = found(report, "memory")
    assert memory.status == "problem" and memory.remedy and not report.healthy
    expected = {
        "rows": fact.id,
        "file": "damaged",
        "foreign": "holds facts of",
        "forbidden": "cannot",
    }
    assert expected[damage] in memory.text
    assert fact.instruction not in json.dumps(report.as_dict())  # what was taught is private
    assert found(report, "self-test").status == "ok"


def test_a_model_that_cannot_be_used_is_a_problem_and_ends_there(tmp_path: Path) -> None:
    report = examine(tmp_path / "nowhere")
    assert [f.name for f in report.findings] == STEPS[:3] and not report.healthy
    assert "no model in" in report.findings[-1].text and report.findings[-1].remedy


def test_a_layer_or_template_that_cannot_be_used_is_a_problem(speaker: Any) -> None:
    report = examine(speaker(), layer=40)
    assert "out of range" in found(report, "layer").text and not report.healthy
    model, tokenizer = speaker()
    tokenizer.chat_template = "{{ 1 + 'a' }}"
    report = examine((model, tokenizer))
    assert found(report, "template").status == "problem"
    assert "self-test" not in [f.name for f in report.findings]


def test_what_is_approximate_is_a_warning(speaker: Any) -> None:
    family = found(examine(speaker("olmo2")), "family")
    assert family.status == "warning" and "approximate" in family.text and family.remedy


def test_a_template_without_system_turn_is_a_warning(speaker: Any) -> None:
    model, tokenizer = speaker()
    tokenizer.chat_template = REJECTING
    report = examine((model, tokenizer))
    template = found(report, "template")
    assert template.status == "warning" and "without a system turn" in template.text
    assert report.healthy and "first question" in template.remedy


def test_a_change_that_is_not_undone_is_a_problem(
    speaker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "forget", lambda *_: None)
    report = examine(speaker())
    assert found(report, "self-test").status == "problem" and not report.healthy


def test_what_nobody_thought_of_is_reported(speaker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by 0")

    monkeypatch.setattr(Model, "learn", fails)
    test = found(examine(speaker()), "self-test")
    assert (test.status, test.text) == ("problem", "ZeroDivisionError: by 0") and test.remedy


# What can be pasted


def test_no_path_of_ones_own_and_no_secret_is_shown(
    speaker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "Jane Doe" / "my company"
    private.mkdir(parents=True)
    for part in speaker():
        part.save_pretrained(private / "the model")
    monkeypatch.setenv("SOME_TOKEN", "hunter2hunter2")
    monkeypatch.chdir(tmp_path)
    for home in (tmp_path / "Jane Doe", tmp_path / "elsewhere"):
        monkeypatch.setenv("HOME", str(home))
        for memory in (private / "facts", private / "hunter2hunter2"):
            memory.mkdir(exist_ok=True)
            (memory / "facts.sqlite").write_text("this is no memory")
            report = examine(private / "the model", memory=memory)
            said = json.dumps(report.as_dict(), ensure_ascii=False)
            assert not report.healthy and "the model" in said
            for secret in ("hunter2", str(tmp_path), str(Path.home())):
                assert secret not in said


@pytest.mark.parametrize("here", ["", "beside", "Jane Doe"])
@pytest.mark.parametrize("written", ["relative", "absolute", "of home"])
def test_no_directory_that_was_named_is_shown(
    speaker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, written: str
) -> None:
    private = tmp_path / "Jane Doe" / "my company"
    for part in speaker():
        part.save_pretrained(private / "the model")
    (private / "a template.jinja").write_text(REJECTING)
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / here)
    monkeypatch.setenv("HOME", str(tmp_path))

    def path(name: str) -> str:
        relative = os.path.relpath(private / name)
        forms = {"relative": relative, "absolute": str(private / name)}
        return {**forms, "of home": f"~/Jane Doe/my company/{name}"}[written]

    def said(model: str, template: str = "a template.jinja", **options: Any) -> str:
        report = examine(path(model), loading={"template": path(template)}, **options)
        return json.dumps(report.as_dict(), ensure_ascii=False)

    monkeypatch.delenv("QF_MEMORY")
    asked = [said("the model"), said("no model"), said("the model", "none.jinja")]
    asked.append(said("the model", memory=path("facts")))
    for text, shown in zip(asked, ("model", "no model", "…/none.jinja", "…/facts"), strict=True):
        assert shown in text
        assert not re.search("Jane|company", text)


def test_the_model_of_a_foreign_memory_is_shown_by_its_last_part(
    speaker: Any, qf_memory: Path
) -> None:
    with Model(Loaded(*speaker(seed=6), "../Jane Doe/one"), qf_memory, solver="paper") as model:
        model.learn(*FACTS[0], "JGUT", rewordings=0, verify=False)
    memory = found(examine(speaker()), "memory")
    assert "holds facts of …/one (layer 3)" in memory.text and memory.status == "problem"


def test_a_name_of_the_hub_is_shown_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert "someone/a-model" in examine("someone/a-model").findings[-1].text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("in {home}/data/x: no", "in ~/data/x: no"),
        ("in {here}/x.", "in ./x."),
        ("'{here}'", "'.'"),
        ("{home}ly/x", "…/x"),
        ("at /srv/acme/models/big, and", "at …/big, and"),
        ("Qwen/Qwen2.5 and a/b", "Qwen/Qwen2.5 and a/b"),
        ("hf_abcdefghij", "(secret)"),
        ("https://jane:pass@host/x", "https://(secret)@host/x"),
        ("3 / 4 and 1/2", "3 / 4 and 1/2"),
    ],
)
def test_paths_are_cut_short(
    text: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    given = text.format(home=Path.home(), here=tmp_path / "work")
    assert public(given) == shown


def test_a_path_that_is_known_is_cut_with_its_spaces() -> None:
    for path in ("/srv/My Own/x", "../My Own/x", "My Own/x/", "~/My Own/x"):
        assert public(f"in {path}: no", [path]) == f"in …/x{'/' * path.endswith('/')}: no"
    assert public("2 facts in facts", ["facts"]) == "2 facts in facts"
