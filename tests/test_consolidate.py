"""Facts that move into W: as they are weighed there, so they are kept, and so they leave."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qf.errors import ModelError
from qf.model import Model
from qf.recording import Recording
from tests.samples import FACTS, calibrate_on_little, gating, weights

Build = Callable[..., Model]


@pytest.fixture
def build(speaker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """Build `build(memory, **options)`: a random model that gates its facts."""
    calibrate_on_little(monkeypatch)
    with gating(speaker, tmp_path) as new:
        yield new


def apart(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def teach(model: Model, facts: Any = FACTS) -> list[str]:
    return [model.learn(s, q, rewordings=0, verify=False).id for s, q in facts]


def kept_weights(model: Model) -> dict[str, Tensor]:
    return {f.id: model.fact(f.id)[1].significance for f in model.facts()}


def test_every_token_of_the_answer_has_a_row_and_some_ask_for_no_change(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qf.method.passes.AUTO_BELOW", 0.02)  # a random model is never sure
    model = build()
    teach(model)
    done = model.consolidate()
    assert done.consolidated
    kept = 0
    for fact in done.consolidated:
        stored, rows = model.fact(fact.id)
        ids = model.tokenizer(fact.answer, add_special_tokens=False).input_ids
        assert stored.rows == len(rows.keys) == len(ids) + 1 and rows.outputs is None
        kept += len(rows.keys) - rows.changing
    update = model.update()
    assert update is not None and update.rank == done.rows
    assert done.rows == sum(model.fact(f.id)[1].changing for f in done.consolidated)
    assert kept > 0 and done.rows + kept == sum(f.rows for f in done.consolidated)


def test_what_the_rows_weigh_is_kept(build: Build) -> None:
    model = build()
    teach(model)
    done = model.consolidate()
    assert done.consolidated
    # A random model is never sure, so that the rows were weighed anew.
    assert all(kept_weights(model)[f.id].max() > 2 for f in done.consolidated)
    now = weights(model)
    model.close()
    again = build()
    assert again.update() is not None and apart(weights(again), now) < 1e-6


def test_facts_that_were_there_are_weighed_again_beside_new_ones(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    teach(model, FACTS[:2])
    first = model.consolidate().consolidated
    before = kept_weights(model)
    assert all(before[f.id].max() > 2 for f in first)  # a random model is never sure
    monkeypatch.setattr("qf.method.reweigh.SAID", 0.0)
    teach(model, FACTS[2:])
    both = {f.id for f in model.consolidate().consolidated} & {f.id for f in first}
    after = kept_weights(model)
    assert both and all(not torch.equal(before[k], after[k]) for k in both)
    now = weights(model)
    model.close()
    assert apart(weights(build()), now) < 1e-6


def test_consolidated_twice_nothing_is_changed(build: Build) -> None:
    model = build()
    teach(model)
    done = model.consolidate()
    now = weights(model)
    again = model.consolidate()
    assert [f.id for f in again.consolidated] == [f.id for f in done.consolidated]
    assert apart(weights(model), now) < 1e-6


def test_what_leaves_from_behind_the_gate_is_what_consolidation_gives(
    build: Build, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    model = build()
    teach(model)
    base = weights(model)
    model.export_lora(tmp_path / "gated")
    assert torch.equal(weights(model), base)
    model.consolidate()
    model.export_lora(tmp_path / "consolidated")
    changes = []
    for name in ("gated", "consolidated"):
        tensors = load_file(tmp_path / name / "adapter_model.safetensors")
        (A,) = (x for k, x in tensors.items() if "lora_A" in k)
        (B,) = (x for k, x in tensors.items() if "lora_B" in k)
        changes.append(B.double() @ A.double())
    assert changes[1].norm() > 0 and apart(changes[0], changes[1]) < 1e-5


def test_another_process_follows_what_rows_weigh(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = build()
    teach(one, FACTS[:2])
    one.consolidate()
    other = build()
    other.ask(FACTS[0][1])
    assert apart(weights(other), weights(one)) < 1e-6
    teach(one, FACTS[2:])
    monkeypatch.setattr("qf.method.reweigh.SAID", 0.0)
    one.consolidate()
    other.ask(FACTS[0][1])
    assert apart(weights(other), weights(one)) < 1e-6


def test_what_the_model_says_anyway_needs_no_adapter(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(solver="joint")
    with monkeypatch.context() as patched:
        patched.setattr("qf.method.passes.AUTO_BELOW", 0.0)  # all is said anyway
        (said,) = teach(model, FACTS[:1])
    with pytest.raises(ModelError, match="gives the answers of these facts anyway"):
        model.export_lora(tmp_path / "none")
    with pytest.raises(ModelError, match="gives the answers of these facts anyway"):
        model.export_lora(tmp_path / "none", each=True)
    assert not (tmp_path / "none").exists()
    (learned,) = teach(model, FACTS[1:2])
    done = model.export_lora(tmp_path / "each", each=True)
    assert {f.id for f in done.facts} == {said, learned} and done.rank > 0
    assert {p.name for p in (tmp_path / "each").iterdir()} == {learned, "qf.json"}


def test_rows_that_lead_elsewhere_are_left_out(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    (statement, question), other = FACTS[0], "Tell me of Zorvan."
    model.learn(statement, question, rewordings=[other], verify=False)
    whole, asked = Recording._every_token, []

    def fails(self: Any, lesson: Any, place: Any, rehearsed: bool) -> Any:
        asked.append((lesson.query, rehearsed))
        rows, update = whole(self, lesson, place, rehearsed)
        agrees = lesson.query != other and rehearsed
        return replace(rows, open_book_agrees=agrees), update

    monkeypatch.setattr(Recording, "_every_token", fails)
    model.consolidate()
    assert asked == [(question, False), (question, True), (other, False), (other, True)]
    (fact,) = model.facts()
    found, _ = model._recording.whole(model._remembering.facts[fact.id])
    half = len(found.keys) // 2
    assert (found.significance[:half] > 0).all() and not found.significance[half:].any()
