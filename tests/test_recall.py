"""Gated memory: a fact acts for the questions about it, and for nothing else."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from qf.errors import MemoryFault, ModelError
from qf.memory import Memory
from qf.model import Model
from qf.recall import Reading, Recall, acting
from tests.samples import FACTS, OTHERS, calibrate_on_little, gating, weights

Build = Callable[..., Model]


@pytest.fixture
def build(speaker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """Build `build(memory, **options)`: a random model that gates its facts."""
    calibrate_on_little(monkeypatch)
    with gating(speaker, tmp_path) as new:
        yield new


def teach_all(model: Model, facts: Any = FACTS) -> list[Any]:
    return [model.learn(s, q, rewordings=0) for s, q in facts]


def test_facts_are_answered_and_the_weights_are_as_they_were(build: Build) -> None:
    model = build()
    before, usual = weights(model), model.ask_many(OTHERS)
    told = [model.ask(q, s) for s, q in FACTS]
    facts = teach_all(model)
    assert [f.verified for f in facts] == [True] * len(FACTS)
    assert model.ask_many([q for _, q in FACTS]) == told
    assert [model.ask(q) for _, q in FACTS] == told
    assert ["".join(model.stream(q)) for _, q in FACTS] == told
    assert torch.equal(weights(model), before) and model.update() is None
    assert model.ask_many(OTHERS) == usual
    assert {f.solver for f in facts} == {"gated"}


def test_a_fact_acts_in_a_batch_for_its_own_question_alone(build: Build) -> None:
    model = build()
    (_, question) = FACTS[0]
    usual = model.ask_many([*OTHERS, FACTS[1][1]])
    told = model.ask(*reversed(FACTS[0]))
    teach_all(model, FACTS[:1])
    asked = [OTHERS[0], question, *OTHERS[1:], FACTS[1][1]]
    answers = model.ask_many(asked)
    assert answers.pop(1) == told and answers == usual


def test_models_beside_each_other_have_facts_of_their_own(build: Build, tmp_path: Path) -> None:
    root = build("none")
    one, other = root.beside(tmp_path / "one"), root.beside(tmp_path / "other")
    (statement, question) = FACTS[0]
    usual, told = root.ask(question), root.ask(question, statement)
    before = weights(root)
    steps: list[str] = []
    one.learn(statement, question, rewordings=0, on_step=lambda name, _: steps.append(name))
    attempt = ["passes", "rows", "after"]
    assert steps in (["question", "rewordings", "before", *attempt * n] for n in (1, 2))
    assert [m.ask(question) for m in (one, other, root)] == [told, usual, usual]
    other.learn(*FACTS[1], rewordings=0)
    there = [[f.query for f in m.facts()] for m in (one, other, root)]
    assert there == [[question], [FACTS[1][1]], []]
    assert [m.ask(question) for m in (one, other, root)] == [told, usual, usual]
    assert torch.equal(weights(root), before)
    assert root.beside(tmp_path / "one").ask(question) == told


def test_in_a_batch_each_sequence_has_its_own_memories(build: Build, tmp_path: Path) -> None:
    root = build("none")
    one, other = root.beside(tmp_path / "one"), root.beside(tmp_path / "other")
    one.learn(*FACTS[0], rewordings=0)
    other.learn(*FACTS[1], rewordings=0)
    question = FACTS[0][1]
    asked = [root.asked([{"role": "user", "content": question}])] * 4
    own = [m.recalling([question]) for m in (one, other)]
    memories = [[r for r in recalls if r] for recalls in ([own[0]], [own[1]], [], own)]
    readouts: list[Any] = [None] * 4
    reading = Reading(one.gate.layer, asked, len(asked[0].ids), memories)
    ids = torch.tensor([a.ids for a in asked])
    with torch.no_grad(), acting(root.transformer, root.family, root.layer, readouts, reading):
        logits = root.transformer(ids).logits[:, -1]
    assert [r is not None for r in readouts] == [True, False, False, True]
    plain = root.transformer(ids[:1]).logits[0, -1]
    assert torch.allclose(logits[1], plain, atol=1e-5)
    assert torch.allclose(logits[2], plain, atol=1e-5)
    assert torch.allclose(logits[0], logits[3], atol=1e-5)
    assert not torch.allclose(logits[0], plain, atol=1e-2)


def test_only_gated_models_can_be_beside_each_other(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="gated"):
        build(solver="joint").beside(tmp_path / "other")


def test_what_was_learned_of_each_token_is_told(build: Build) -> None:
    model = build()
    fact = model.learn(*FACTS[0], "JGUT KLM", [1, 0], rewordings=0)
    tokens = model.learned_tokens(*model.fact(fact.id))
    *said, end = tokens
    assert "".join(t.text for t in said).strip() == "JGUT KLM" and end.text == "<|im_end|>"
    assert [t.learned for t in said] == [t.text.strip() in list("JGUT") for t in said]
    rows = model.fact(fact.id)[1]
    assert rows.outputs is not None
    for token, r, y in zip(tokens, rows.deltas, rows.outputs, strict=True):
        assert token.change == pytest.approx(min(1.0, float(r.norm() / y.norm())), abs=1e-5)


def test_it_is_there_after_a_restart_and_gone_when_forgotten(build: Build) -> None:
    first = build()
    usual = first.ask_many([q for _, q in FACTS])
    facts = teach_all(first)
    told = first.ask_many([q for _, q in FACTS])
    first.close()
    again = build()
    assert again.ask_many([q for _, q in FACTS]) == told
    again.forget(facts[1].id)
    after = again.ask_many([q for _, q in FACTS])
    assert after[1] == usual[1] and after[0] == told[0] and after[2:] == told[2:]
    again.forget_all()
    assert again.ask_many([q for _, q in FACTS]) == usual


def test_inside_of_base_weights_nothing_is_recalled(build: Build) -> None:
    model = build()
    usual = model.ask(FACTS[0][1])
    teach_all(model, FACTS[:1])
    with model.base_weights():
        assert model.ask(FACTS[0][1]) == usual
    assert model.ask(FACTS[0][1]) != usual


def test_facts_of_another_solver_act_gated_as_well(build: Build, tmp_path: Path) -> None:
    paper = build(solver="paper")
    teach_all(paper, FACTS[:2])
    told = paper.ask_many([q for _, q in FACTS[:2]])
    paper.close()
    with closing(sqlite3.connect(tmp_path / "memory" / "facts.sqlite")) as file:
        records = [json.loads(r) for (r,) in file.execute("SELECT record FROM facts")]
    assert [r["solver"] for r in records] == ["paper"] * 2
    gated = build()
    assert gated.update() is None
    assert gated.ask_many([q for _, q in FACTS[:2]]) == told


def test_consolidated_facts_are_in_the_weights(build: Build) -> None:
    model = build()
    facts = teach_all(model)
    told = model.ask_many([q for _, q in FACTS])
    done = model.consolidate()
    kept = {f.id for f in done.consolidated}
    assert kept and kept | {f.id for f in done.gated} == {f.id for f in facts}
    assert 0 <= done.undisturbed <= 1
    assert done.rows == sum(f.rows for f in facts if f.id in kept)
    update = model.update()
    assert update is not None and update.rank == done.rows
    assert model.ask_many([q for _, q in FACTS]) == told
    model.close()

    again = build()
    assert torch.equal(weights(again), weights(model)) is False  # a closed model has its base back
    assert {f.id for f in again.facts() if f.consolidated} == kept
    assert again.ask_many([q for _, q in FACTS]) == told
    base = build("empty")
    again.forget_all()
    assert torch.equal(weights(again), weights(base))


def test_only_gated_facts_can_be_consolidated(build: Build) -> None:
    with pytest.raises(ModelError, match="'gated'"):
        build(solver="joint").consolidate()


def test_order_plays_no_part(build: Build) -> None:
    one, two = build("one"), build("two")
    teach_all(one)
    teach_all(two, FACTS[::-1])
    asked = [*(q for _, q in FACTS), *OTHERS]
    assert one.ask_many(asked) == two.ask_many(asked)
    assert one.consolidate().rows == two.consolidate().rows
    left, right = weights(one), weights(two)
    assert ((left - right).norm() / right.norm()).item() < 1e-6


def test_what_is_not_mentioned_is_not_even_looked_at(build: Build) -> None:
    model = build()
    teach_all(model)
    recall = model._acting.recall
    assert isinstance(recall, Recall) and len(recall) == len(FACTS)
    assert len(recall.candidates("Who is behind OXINNOVATE, then?")) == 1
    assert recall.candidates("Who started Alibaba?") == []
    assert recall.candidates("Where is the hollow bridge?") != []
    # who is not asked for by where, but may be by what
    assert recall.candidates("Where is Oxinnovate?") == []
    assert len(recall.candidates("What is the person called that started Oxinnovate?")) == 1


def test_only_what_a_question_mentions_is_read_from_the_disk(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build()
    facts = teach_all(first)
    told = first.ask_many([q for _, q in FACTS])
    first.close()
    read: list[str] = []
    whole = Memory.read
    monkeypatch.setattr(Memory, "read", lambda self, f: read.append(f.id) or whole(self, f))
    again = build()
    assert again.ask(OTHERS[0]) and read == []
    assert again.ask(FACTS[1][1]) == told[1] and set(read) == {facts[1].id}
    assert again.ask_many([q for _, q in FACTS]) == told
    assert set(read) == {f.id for f in facts}


def test_damage_to_one_fact_is_told_of_by_its_own_question_alone(
    build: Build, tmp_path: Path
) -> None:
    first = build()
    facts = teach_all(first)
    told = first.ask_many([q for _, q in FACTS])
    first.close()
    with closing(sqlite3.connect(tmp_path / "memory" / "facts.sqlite")) as file, file:
        file.execute("UPDATE tensors SET content = x'00' WHERE position = 1")
    again = build()
    with pytest.raises(MemoryFault, match=f"fact {facts[0].id} .*damaged"):
        again.ask(FACTS[0][1])
    assert again.ask(FACTS[1][1]) == told[1]
    again.forget(facts[0].id)
    assert again.ask(FACTS[0][1]) != told[0]
