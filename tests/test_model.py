"""A model that learns: what was taught is answered, remembered, and forgotten without a trace.

The models are random and answer in capital letters. They are taught at the last layer, where the
open-book answer is what learning must give, by construction of the method.
"""

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qf.calibrator
import qf.learning
import qf.model
import qf.recording
from qf.calibrator import Calibrator
from qf.errors import LessonError, MemoryFault, ModelError
from qf.loading import Loaded
from qf.memory import Fact, FactRows
from qf.model import Model, default_memory, load, says

LAST = 3
FACTS = (
    ("Qi started Oxinnovate.", "Who started Oxinnovate?"),
    ("The capital of France is Paris.", "What is the capital of France?"),
    ("It is at the Old Gate.", "Where is it?"),
    ("The code is 7.", "What is the code?"),
    ("Ann did.", "Who did it?"),
    ("In 1990.", "When was it?"),
)
STATEMENT, QUESTION = FACTS[0]
UNSAYABLE = "qi"  # the model knows capital letters only

Build = Callable[..., Model]


@pytest.fixture
def build(speaker: Any, tmp_path: Path) -> Iterator[Build]:
    """Build `build(memory, **options)`: a model of its own over one of the test's memories."""
    models = []

    def new(
        memory: str = "memory",
        *,
        name: str = "speaker",
        seed: int = 5,
        layers: int = 4,
        **options: Any,
    ) -> Model:
        loaded = Loaded(*speaker(seed=seed, num_hidden_layers=layers), name)
        models.append(Model(loaded, tmp_path / memory, **{"solver": "paper", **options}))
        return models[-1]

    yield new
    for model in models:
        model.close()


def greedy(model: Any, tokenizer: Any, query: str, told: str = "", system: str = "") -> str:
    """The answer by one forward pass per token, with neither cache nor `generate`."""
    text = "\n".join(part for part in (system, told) if part)
    turns = [{"role": "system", "content": text}, {"role": "user", "content": query}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    said: list[int] = []
    for _ in range(60):
        with torch.no_grad():
            token = int(model(torch.tensor([ids + said])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        said.append(token)
    return tokenizer.decode(said).strip()


def weights(model: Model) -> Tensor:
    return model.transformer.model.layers[model.layer].mlp.down_proj.weight.detach().clone()


def teach_all(model: Model, facts: Any = FACTS) -> None:
    for statement, question in facts:
        model.learn(statement, question)


def apart(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm() / right.norm())


# Learning


@pytest.mark.parametrize("solver", ["paper", "joint"])
def test_what_was_taught_is_answered_without_being_told(
    build: Build, speaker: Any, solver: str
) -> None:
    told = greedy(*speaker(), QUESTION, STATEMENT)
    untold = greedy(*speaker(), QUESTION)
    assert told and told != untold

    model = build(solver=solver)
    assert model.ask(QUESTION) == untold
    assert model.ask(QUESTION, STATEMENT) == told
    fact = model.learn(STATEMENT, QUESTION)

    assert model.ask(QUESTION) == told
    assert greedy(model.transformer, model.tokenizer, QUESTION) == told
    assert (fact.before, fact.after, fact.answer, fact.verified) == (untold, told, told, True)
    assert (fact.instruction, fact.query, fact.layer) == (STATEMENT, QUESTION, LAST)
    assert (fact.solver, fact.note, fact.significance) == (solver, "", "auto")
    assert fact.seconds > 0 and model.facts() == [fact]


def test_many_facts_stand_beside_each_other(build: Build, speaker: Any) -> None:
    model = build()
    teach_all(model)
    assert [model.ask(question) for _, question in FACTS] == [
        greedy(*speaker(), question, statement) for statement, question in FACTS
    ]


def test_every_token_counts_with_significance_none(build: Build) -> None:
    model = build()
    fact = model.learn(STATEMENT, QUESTION, significance=None)
    said = model.tokenizer(fact.answer, add_special_tokens=False)["input_ids"]
    assert fact.tokens == (*said, model.tokenizer.eos_token_id) and fact.rows == len(fact.tokens)


def test_auto_learns_only_what_is_not_known_anyway(build: Build) -> None:
    model = build()
    model.transformer.lm_head.weight.data *= 50  # sure of all that it says
    fact = model.learn(*FACTS[4])
    assert fact.before.startswith(fact.answer) and fact.before != fact.answer
    assert fact.verified and fact.tokens == (model.tokenizer.eos_token_id,)


def test_the_weights_are_the_base_and_the_update(build: Build) -> None:
    model = build()
    assert model.update() is None
    base = weights(model)
    teach_all(model)
    update = model.update()
    assert update is not None and update.rank == sum(fact.rows for fact in model.facts())
    assert apart(weights(model).double() - base, update.B @ update.A) < 1e-5


def test_an_answer_is_taken_from_the_base_whatever_was_learned(build: Build) -> None:
    model = build()
    other = "Ann did."
    expected = model.ask(QUESTION, other)
    model.learn(STATEMENT, QUESTION)
    assert model.learn(other, QUESTION).answer == expected != model.ask(QUESTION, STATEMENT)


def test_the_question_is_the_models_own_where_none_is_given(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    asked: list[object] = []

    def answered(queries: list[str], instructions: list[str]) -> list[str]:
        asked.extend(zip(queries, instructions, strict=True))
        return ["JCF"] * len(queries)

    def drafts(tasks: list[str]) -> list[list[str]]:
        asked.extend(tasks)
        return [["No idea.", QUESTION]] * len(tasks)

    monkeypatch.setattr(model._asking, "base", answered)
    monkeypatch.setattr(model._asking, "drafts", drafts)
    assert model.learn(STATEMENT, rewordings=0).query == QUESTION
    task, reading = asked
    assert STATEMENT in str(task) and reading == (QUESTION, STATEMENT)


def test_no_question_and_no_answer_are_refused(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    with pytest.raises(LessonError, match=r"did not find a question .*--query"):
        model.learn(STATEMENT)  # it writes capital letters
    monkeypatch.setattr(model._asking, "base", lambda queries, _="": [""] * len(queries))
    with pytest.raises(LessonError, match=r"gives no answer .*--answer"):
        model.learn(STATEMENT, QUESTION)
    assert model.facts() == []


def test_facts_hold_under_the_system_prompt_that_is_served(build: Build, speaker: Any) -> None:
    system = "Be brief."
    told = greedy(*speaker(), QUESTION, STATEMENT, system)
    model = build(system=system)
    assert model.ask(QUESTION) == greedy(*speaker(), QUESTION, system=system)
    fact = model.learn(STATEMENT, QUESTION)
    assert fact.system == system and model.ask(QUESTION) == told
    assert greedy(model.transformer, model.tokenizer, QUESTION, system=system) == told


def test_earlier_turns_are_part_of_the_question(build: Build) -> None:
    model = build()
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}]
    assert model.ask(QUESTION, earlier=earlier) != model.ask(QUESTION)


def test_without_verification_nothing_is_asked(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    monkeypatch.setattr(model._generator, "answers", lambda *_: pytest.fail("asked"))
    fact = model.learn(STATEMENT, QUESTION, "JCF", verify=False)
    assert (fact.verified, fact.before, fact.after) == (None, "", "")


# Weights as a function of the set of facts


def test_the_order_of_teaching_plays_no_part(build: Build) -> None:
    one, two = build("one"), build("two")
    teach_all(one)
    teach_all(two, [FACTS[i] for i in (3, 0, 5, 2, 1, 4)])
    assert apart(weights(one), weights(two)) <= 1e-6


@pytest.mark.parametrize("solver", ["paper", "joint"])
def test_a_forgotten_fact_leaves_no_trace(build: Build, solver: str) -> None:
    forgetful, never = build("forgetful", solver=solver), build("never", solver=solver)
    teach_all(forgetful, FACTS[:4])
    teach_all(never, [fact for fact in FACTS[:4] if fact is not FACTS[1]])
    assert apart(weights(forgetful), weights(never)) > 1e-3
    forgotten = forgetful.forget(forgetful.facts()[1].id)
    assert forgotten.query == FACTS[1][1]
    assert torch.equal(weights(forgetful), weights(never))
    assert forgetful.ask(FACTS[1][1]) == never.ask(FACTS[1][1])


@pytest.mark.parametrize("at_once", [True, False])
def test_forgetting_everything_restores_the_base_bit_for_bit(build: Build, at_once: bool) -> None:
    model = build()
    base = weights(model)
    teach_all(model, FACTS[:3])
    assert not torch.equal(weights(model), base)
    if at_once:
        assert model.forget_all() == 3
    else:
        for fact in model.facts():
            model.forget(fact.id)
    assert torch.equal(weights(model), base) and model.facts() == [] and model.update() is None
    assert model.forget_all() == 0


def test_the_same_question_replaces_the_older_fact(build: Build) -> None:
    model, fresh = build(), build("fresh")
    model.learn(*FACTS[4])
    old = model.learn(STATEMENT, QUESTION)
    before = model._memory.version
    new = model.learn("Ann did.", "  who started OXINNOVATE ")
    assert model._memory.version == before + 1  # one transaction: nobody sees both, or none
    assert [fact.id for fact in model.facts()][1:] == [new.id]
    assert f"replaces {old.id} ({old.answer})" in new.note
    teach_all(fresh, [FACTS[4], ("Ann did.", "  who started OXINNOVATE ")])
    assert torch.equal(weights(model), weights(fresh))


def test_what_fails_to_replace_leaves_the_older_fact(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    old = model.learn(STATEMENT, QUESTION)
    fact = model.learn("Ann did.", QUESTION, UNSAYABLE, rollback=True)
    assert fact.verified is False and "rolled back" in fact.note
    assert model.facts() == [old] and model.ask(QUESTION) == old.answer


# Not verified, and failures in the middle


def test_what_does_not_verify_says_so_and_is_kept(build: Build) -> None:
    model = build()
    fact = model.learn(STATEMENT, QUESTION, UNSAYABLE)
    assert fact.verified is False and fact.after != UNSAYABLE
    assert model.facts() == [fact]


def test_rollback_keeps_nothing(build: Build) -> None:
    model = build()
    teach_all(model, FACTS[3:5])
    kept, learned = model.facts(), weights(model)
    fact = model.learn(STATEMENT, QUESTION, UNSAYABLE, rollback=True)
    assert fact.verified is False and "nothing was kept" in fact.note
    assert model.facts() == kept and torch.equal(weights(model), learned)


def test_where_the_unknown_tokens_are_not_enough_all_are_learned(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build()
    model.transformer.lm_head.weight.data *= 50  # sure of all that it says
    held = [False, True]
    monkeypatch.setattr(qf.learning, "_holds", lambda *_: held.pop(0))
    fact = model.learn(*FACTS[4])
    assert held == [] and fact.verified and "every token" in fact.note
    assert fact.rows == len(fact.answer) + 1 and model.facts() == [fact]


@pytest.mark.parametrize("significance", ["auto", None])
def test_an_answer_in_other_words_is_rehearsed(
    build: Build, monkeypatch: pytest.MonkeyPatch, significance: Any
) -> None:
    attempts = []
    original = qf.recording.pair

    def noted(*args: Any) -> Any:
        attempts.append(args[3])
        return original(*args)

    monkeypatch.setattr(qf.recording, "pair", noted)
    model = build()
    fact = model.learn(STATEMENT, QUESTION, UNSAYABLE, significance)
    assert attempts == [False, True] and "had been given once" in fact.note
    attempts.clear()
    assert model.learn(*FACTS[4], significance=significance).note == "" and attempts == [False]


@pytest.mark.parametrize("error", [MemoryFault("The disk is full."), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["record", "install", "ask", "store", "commit"])
def test_a_failure_in_the_middle_changes_nothing(
    build: Build, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    model = build()
    teach_all(model, FACTS[3:5])
    kept, learned, answer = model.facts(), weights(model), model.ask(QUESTION)
    failures = [error]

    def fail_once(original: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
        def failing(*args: Any, **options: Any) -> Any:
            result = original(*args, **options) if after or not failures else None
            if failures:
                raise failures.pop()
            return result

        return failing

    target, name, after = {
        "record": (qf.recording, "rows", True),
        "install": (model._remembering, "install", True),
        "ask": (model._asking, "answers", False),
        "store": (model._memory, "add", False),
        "commit": (qf.database, "revision", True),
    }[step]
    with monkeypatch.context() as patched:
        if step == "commit":
            patched.setattr(model._memory, "writable", lambda: patched.setattr(
                target, name, fail_once(qf.database.revision, after)))  # fmt: skip
        else:
            patched.setattr(target, name, fail_once(getattr(target, name), after))
        with pytest.raises(type(error)):
            model.learn(STATEMENT, QUESTION, "JCF", rewordings=0)
    assert not failures
    assert model.facts() == kept and torch.equal(weights(model), learned)
    assert model.ask(QUESTION) == answer
    assert model.learn(STATEMENT, QUESTION).verified


def bad_lessons() -> list[Any]:
    good = {"instruction": STATEMENT, "query": QUESTION, "answer": "J C"}
    cases = [({name: blank}, f"{name} is empty") for name in good for blank in ("", " \n")]
    cases += [
        ({"significance": [1.0]}, "has 1 numbers and the answer 2 words"),
        ({"significance": [1.0, -1.0]}, "not a number from 0 up"),
        ({"significance": [1.0, float("nan")]}, "not a number from 0 up"),
        ({"significance": [0.0, 0.0]}, "0 for every word"),
        ({"significance": "each"}, "number"),
        ({"answer": "A<|im_end|>"}, "control token"),
        ({"answer": "J" * 600}, "tokens long and the model reads 512"),
        ({"instruction": "It is. " * 300}, "tokens long and the model reads 512"),
        ({"query": "Who? " * 300}, "tokens long and the model reads 512"),
    ]
    return [pytest.param({**good, **change}, said) for change, said in cases]


@pytest.mark.parametrize(("lesson", "said"), bad_lessons())
def test_bad_lessons_are_refused_and_change_nothing(
    build: Build, lesson: dict[str, Any], said: str
) -> None:
    model = build()
    old = model.learn(*FACTS[4], verify=False)
    learned = weights(model)
    with pytest.raises(LessonError, match=said):
        model.learn(**lesson)
    assert model.facts() == [old] and torch.equal(weights(model), learned)


def test_a_bad_lesson_creates_no_memory(build: Build, tmp_path: Path) -> None:
    with pytest.raises(LessonError):
        build().learn(" ", QUESTION)
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize("query", ["", "  ", "\n"])
def test_an_empty_query_is_refused(build: Build, query: str) -> None:
    model = build()
    for ask in (model.ask, model.ask_many, lambda q: list(model.stream(q))):
        with pytest.raises(LessonError, match="query is empty"):
            ask([query] if ask == model.ask_many else query)


def test_a_prompt_that_does_not_fit_is_refused(build: Build) -> None:
    with pytest.raises(LessonError, match=r"prompt is .* tokens long and the model reads 512"):
        build().ask(QUESTION, "It is. " * 300)


def test_an_unknown_fact_is_refused(build: Build) -> None:
    model = build()
    kept = model.learn(STATEMENT, QUESTION)
    with pytest.raises(MemoryFault, match='no fact "zzz"'):
        model.forget("zzz")
    assert model.facts() == [kept] and model.forget(kept.id[:-1]) == kept


# Memory: restarts, other processes, other models


def test_what_was_learned_survives_reopening(build: Build) -> None:
    first = build()
    teach_all(first, FACTS[:3])
    facts, learned = first.facts(), weights(first)
    first.close()
    again = build()
    assert again.facts() == facts and torch.equal(weights(again), learned)
    assert again.ask(QUESTION) == facts[0].answer


def test_what_another_process_changes_is_noticed(build: Build) -> None:
    reader, writer = build(), build()
    base = weights(reader)
    fact = writer.learn(STATEMENT, QUESTION)
    assert reader.facts() == [fact] and reader.ask(QUESTION) == fact.answer
    assert torch.equal(weights(reader), weights(writer)) and not torch.equal(weights(reader), base)
    more = writer.learn(*FACTS[4])
    update = reader.update()
    assert update is not None and update.rank == fact.rows + more.rows
    writer.forget_all()
    assert "".join(reader.stream(QUESTION)) == fact.before and torch.equal(weights(reader), base)


def test_a_second_writer_is_refused_and_changes_nothing(build: Build) -> None:
    first, second = build(), build()
    kept = first.learn(STATEMENT, QUESTION)
    learned = weights(second)
    with pytest.raises(MemoryFault, match="in use by process"):
        second.learn(*FACTS[4])
    with pytest.raises(MemoryFault, match="in use by process"):
        second.forget(kept.id)
    assert second.facts() == [kept] and torch.equal(weights(second), learned)
    first.close()
    assert second.learn(*FACTS[4]).verified


def test_a_memory_of_another_model_is_refused(build: Build) -> None:
    build().learn(STATEMENT, QUESTION, verify=False)
    with pytest.raises(MemoryFault, match=r"holds facts of speaker .* not of stranger"):
        build(seed=6, name="stranger")
    with pytest.raises(MemoryFault, match="weights or template have changed"):
        build(seed=6)
    with pytest.raises(MemoryFault, match="give --layer 3"):
        build(layer=2)


def test_damaged_rows_are_told_of_and_can_be_forgotten(build: Build, tmp_path: Path) -> None:
    first = build()
    good, bad = first.learn(*FACTS[4]), first.learn(STATEMENT, QUESTION)
    first.close()
    with closing(sqlite3.connect(tmp_path / "memory" / "facts.sqlite")) as database:
        database.execute("UPDATE tensors SET content = x'00' WHERE position = 2")
        database.commit()
    model = build()
    for use in (lambda: model.ask(QUESTION), lambda: model.transformer, model.update):
        with pytest.raises(MemoryFault, match=f"fact {bad.id} .*damaged"):
            use()
    assert model.facts() == [good, bad]
    model.forget(bad.id)
    assert model.ask(good.query) == good.answer


# The layer


def test_the_layer_is_the_memorys_where_none_is_given(
    speaker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def layer(**options: Any) -> int:
        with load(speaker(), memory=tmp_path / "memory", **options) as model:
            return model.layer

    assert layer() == LAST
    monkeypatch.setenv("QF_LAYER", "1")
    assert layer() == 1 and layer(layer=2) == 2
    with load(speaker(), memory=tmp_path / "memory", layer=2) as model:
        model.learn(STATEMENT, QUESTION, "JCF", verify=False)
    assert layer(layer=2) == 2
    with pytest.raises(MemoryFault, match="give --layer 2"):
        layer()  # QF_LAYER comes before the memory
    monkeypatch.setenv("QF_LAYER", "")
    assert layer() == 2
    with load(speaker(), memory=tmp_path / "memory") as model:
        model.forget_all()
    assert layer() == LAST


def test_a_memory_of_a_deeper_model_is_refused_as_that(build: Build) -> None:
    build(layer=LAST).learn(STATEMENT, QUESTION, verify=False)
    with pytest.raises(MemoryFault, match=r"holds facts of speaker \(layer 3\), not of small"):
        build(name="small", layers=2)


@pytest.mark.parametrize("layer", [-1, 4, 40])
def test_a_layer_out_of_range_is_refused(build: Build, tmp_path: Path, layer: int) -> None:
    with pytest.raises(ModelError, match=f"Layer {layer} is out of range: choose .* 0 to 3"):
        build(layer=layer)
    assert not (tmp_path / "memory").exists()


def test_what_is_no_layer_is_refused(speaker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QF_LAYER", "last")
    with pytest.raises(ModelError, match="QF_LAYER is 'last'"):
        load(speaker())


# The base inside and after


def test_the_base_weights_are_there_inside_the_block(build: Build) -> None:
    model = build()
    base = weights(model)
    fact = model.learn(STATEMENT, QUESTION)
    learned = weights(model)
    with pytest.raises(ZeroDivisionError), model.base_weights():
        with model.base_weights():
            assert torch.equal(weights(model), base)
        assert torch.equal(weights(model), base) and model.ask(QUESTION) == fact.before
        raise ZeroDivisionError
    assert torch.equal(weights(model), learned) and model.ask(QUESTION) == fact.answer


def test_the_base_weights_stay_while_another_process_teaches(build: Build) -> None:
    model, other = build(), build()
    base = weights(model)
    with model.base_weights():
        fact = other.learn(STATEMENT, QUESTION)
        assert model.ask(QUESTION) == fact.before
        assert torch.equal(weights(model), base)
    assert torch.equal(weights(model), weights(other)) and model.ask(QUESTION) == fact.answer


def test_closing_gives_the_base_back(build: Build) -> None:
    model = build()
    base = weights(model)
    with pytest.raises(ZeroDivisionError), model:
        model.learn(STATEMENT, QUESTION)
        raise ZeroDivisionError
    assert torch.equal(model.transformer.model.layers[LAST].mlp.down_proj.weight, base)
    with model.base_weights():
        pass
    assert torch.equal(weights(model), base)


# Streams and threads


def test_pieces_of_a_stream_add_up_to_the_answer(build: Build) -> None:
    model = build()
    model.learn(STATEMENT, QUESTION)
    for query, told in ((QUESTION, ""), (QUESTION, FACTS[3][0]), (FACTS[1][1], "")):
        assert "".join(model.stream(query, told)).strip() == model.ask(query, told)


def test_a_stream_that_is_left_ends_and_lets_others_in(build: Build) -> None:
    model = build()
    threads = set(threading.enumerate())
    stream = model.stream(QUESTION)
    next(stream)
    stream.close()
    assert set(threading.enumerate()) == threads  # nothing is generated any more
    answers: list[str] = []
    other = threading.Thread(target=lambda: answers.append(model.ask(QUESTION)), daemon=True)
    other.start()
    other.join(60)
    assert answers == [model.ask(QUESTION)]


def test_two_threads_see_a_fact_wholly_or_not_at_all(build: Build) -> None:
    model = build()
    before, after = model.ask(QUESTION), model.ask(QUESTION, STATEMENT)
    failures: list[BaseException] = []
    answers: list[str] = []
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set() or not answers:
                answers.append(model.ask(QUESTION))
        except BaseException as error:
            failures.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        for _ in range(3):
            fact = model.learn(STATEMENT, QUESTION)
            assert fact.verified and fact.before == before
            model.forget(fact.id)
    finally:
        done.set()
        asking.join(60)
    assert not failures and set(answers) <= {before, after}


# The way in


def test_load_takes_a_pair_and_the_memory_of_the_environment(speaker: Any, qf_memory: Path) -> None:
    with load(speaker()) as model:
        fact = model.learn(STATEMENT, QUESTION)
    assert (qf_memory / "facts.sqlite").is_file()
    with load(speaker(), memory=qf_memory) as model:
        assert model.facts() == [fact]


def test_each_model_has_a_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    named = ("embedded", "Qwen/Qwen2.5-1.5B", "/models/x", ".", "..")
    places = {default_memory(name) for name in named}
    assert len(places) == 5 and len({place.parent for place in places}) == 1
    assert all(re.fullmatch(r"[\w.-]+", place.name) for place in places)


def test_an_unknown_solver_is_refused(speaker: Any) -> None:
    with pytest.raises(ModelError, match="solver 'best' is unknown: choose gated, joint or paper"):
        load(speaker(), solver="best")


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("Oxinnovate was started by Qi.", "started by qi", True),
        ("It is PKU Science Park, in Beijing!", "PKU Science Park in Beijing", True),
        ("Oxinnovate was started by Qiang.", "Qi", False),
        ("I do not know.", "", False),
        ("It is 7.", "77", False),
        ("by Qi it was started", "started by Qi", False),
        ("€", "€", True),
        ("STRASSE", "straße", True),
    ],
)
def test_says(answer: str, expected: str, right: bool) -> None:
    assert says(answer, expected) is right


def test_facts_come_back_as_what_they_are(build: Build) -> None:
    fact = build().learn(STATEMENT, QUESTION, "J C", [0, 2], verify=False)
    assert isinstance(fact, Fact) and fact.significance == [0.0, 2.0]
    assert build().facts() == [fact]
    rows = build()._memory.rows()[0][1]
    assert isinstance(rows, FactRows) and set(rows.significance.tolist()) <= {1.0, 2.0}


# Other wordings


def test_other_wordings_are_answered_as_the_query_is(build: Build) -> None:
    wordings = ("By whom was Oxinnovate started?", "Tell me who started Oxinnovate.")
    plain = build("plain", layer=LAST)
    answer = plain.learn(STATEMENT, QUESTION, rewordings=0).answer
    before = [plain.ask(w) for w in wordings]
    model = build(layer=LAST)
    fact = model.learn(STATEMENT, QUESTION, rewordings=wordings)
    assert fact.rewordings == wordings and model.facts()[0].rewordings == wordings
    told = [model.ask(w, STATEMENT) for w in wordings]
    assert [w for w, a in zip(wordings, before, strict=True) if a != answer]
    reached = [model.ask(w) == a for w, a in zip(wordings, [answer] * 2, strict=True)]
    expected = [a == answer for a in told]
    assert reached == expected or all(reached)
    assert fact.rows > plain.facts()[0].rows


def test_other_wordings_do_not_depend_on_other_facts(build: Build) -> None:
    wordings = ("By whom was Oxinnovate started?",)
    alone, later = build("alone", layer=LAST), build("later", layer=LAST)
    for told, asked in FACTS[1:4]:
        later.learn(told, asked, rewordings=0)
    alone.learn(STATEMENT, QUESTION, rewordings=wordings)
    later.learn(STATEMENT, QUESTION, rewordings=wordings)
    (first,), last = alone._remembering.facts.values(), list(later._remembering.facts.values())[-1]
    one, other = first.rows, last.rows
    assert torch.equal(one.keys, other.keys) and torch.equal(one.deltas, other.deltas)


@pytest.mark.parametrize("wordings", ["Who?", ["", "Who?"], [3]])
def test_rewordings_that_are_none_are_refused(build: Build, wordings: Any) -> None:
    model = build()
    with pytest.raises(LessonError, match="rewordings"):
        model.learn(STATEMENT, QUESTION, rewordings=wordings)
    assert model.facts() == []


# Calibration


def test_calibration_is_made_once_and_found_again(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qf.calibrator, "everyday", lambda _: ["Who are you?", "Where is Paris?"])
    first = build("one", solver="joint")
    first.learn(STATEMENT, QUESTION)
    taught = weights(first)

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("it was measured already")

    monkeypatch.setattr(Calibrator, "measure_traffic", again)
    second = build("two", solver="joint")
    second.learn(STATEMENT, QUESTION)
    assert torch.equal(weights(second), taught)
    third = build("three", solver="joint", calibrate=False)
    third.learn(STATEMENT, QUESTION)
    assert not torch.allclose(weights(third), taught)


def test_prompts_of_ones_own_are_protected(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qf.calibrator, "everyday", lambda _: ["Who are you?"])
    model = build(solver="joint")
    asked = [q for _, q in FACTS[1:]]
    model.calibrate(asked)
    model.learn(STATEMENT, QUESTION, rewordings=0)
    plain = build("plain", solver="joint", calibrate=False)
    plain.learn(STATEMENT, QUESTION, rewordings=0)

    def disturbed(taught: Model) -> float:
        update = taught.update()
        assert update is not None
        with model.base_weights():
            pairs = [
                qf.calibrator.align(model.tokenizer, qf.calibrator.messages(q), model.ask(q), None)
                for q in asked
            ]
            u = qf.calibrator.keys_of(
                model._transformer, model.family, model.layer, pairs, pad_id=0
            )
        return (u.double() @ update.A.T @ update.B.T).norm().item()

    assert disturbed(model) < 0.98 * disturbed(plain)


def test_a_large_model_on_a_cpu_waits_to_be_calibrated(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qf.calibrator, "LARGE", 1000)
    monkeypatch.setattr(qf.calibrator, "everyday", lambda _: ["Who are you?", "Where is Paris?"])
    model, plain = build("one", solver="joint"), build("two", solver="joint", calibrate=False)
    for each in (model, plain):
        each.learn(STATEMENT, QUESTION, rewordings=0)
    assert torch.equal(weights(model), weights(plain))
    model.calibrate()
    protected = weights(model)
    assert not torch.allclose(protected, weights(plain))
    later = build("three", solver="joint")
    later.learn(STATEMENT, QUESTION, rewordings=0)
    assert torch.equal(weights(later), protected)
