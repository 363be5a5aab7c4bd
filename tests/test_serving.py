"""Learning under the prompts that are served: several of them, conversations, tools, thinking.

The random model gives one answer to the question under each of PROMPTS when it is told, and others
when it is not.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken

from qf.chat import ChatOptions, messages, prompt_ids, takes_system
from qf.chat import without_thoughts as spoken
from qf.errors import LessonError, ModelError
from qf.generate import after_thoughts
from qf.lesson import Lesson, align, pair
from qf.loading import Loaded
from qf.model import TURNS, Model, load
from tests.samples import FACTS, calibrate_on_little

STATEMENT, QUESTION = FACTS[0]
PROMPTS, TOLD = ["Al", "Cd", "Ce"], "FJB"
OTHER = "Eg"  # a prompt under which it says something else when it is told
TOOLS = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]

HEADER = "{{- '<|im_start|>' + m.role + '\\n' -}}"
ANSWERS = "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
# The habits of Qwen3: tools in the system block, thoughts behind the last query alone, and an empty
# think block in the prompt where there is to be no thinking.
QWEN3 = (
    "{%- set told = messages[0].content if messages[0].role == 'system' else '' -%}"
    "{%- if told or tools -%}{{- '<|im_start|>system\\n' + told -}}"
    "{%- if tools -%}{{- '\\n\\n# Tools\\n' -}}"
    "{%- for tool in tools -%}{{- tool | tojson + '\\n' -}}{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- set last = namespace(query=0) -%}"
    "{%- for m in messages -%}{%- if m.role == 'user' -%}"
    "{%- set last.query = loop.index0 -%}{%- endif -%}{%- endfor -%}"
    "{%- for m in messages -%}{%- if m.role != 'system' -%}"
    + HEADER
    + "{%- if m.role == 'assistant' -%}"
    "{%- if loop.index0 > last.query -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    "{{- m.content.split('</think>')[-1].lstrip('\\n') -}}"
    "{%- else -%}{{- m.content -}}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}"
    "{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}{%- endif -%}"
)
# Those of models that always think: the block is open in the prompt, and left out of what was said.
ALWAYS = (
    "{%- for m in messages -%}" + HEADER + "{{- m.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}"
)
# Those of Gemma: no system turn.
WITHOUT_SYSTEM = (
    "{%- if messages[0].role == 'system' -%}{{ raise_exception('System role not supported') }}"
    "{%- endif -%}{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Roles must alternate') }}{%- endif -%}"
    + HEADER
    + "{{- m.content | trim + '<|im_end|>\\n' -}}{%- endfor -%}"
    + ANSWERS
)

Build = Callable[..., Model]


@pytest.fixture
def build(speaker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Build]:
    """Build `build(memory, template=..., kind=..., **options)`: a random model of its own."""
    calibrate_on_little(monkeypatch)
    models = []

    def new(
        memory: str = "memory", template: str | None = None, kind: str = "llama", **options: Any
    ) -> Model:
        transformer, tokenizer = speaker(kind)
        tokenizer.chat_template = template or tokenizer.chat_template
        loaded = Loaded(transformer, tokenizer, "speaker")
        models.append(Model(loaded, tmp_path / memory, **{"solver": "paper", **options}))
        return models[-1]

    yield new
    for model in models:
        model.close()


def output(model: Model, aligned: Any) -> torch.Tensor:
    """What comes out of the taught layer in front of each learned token: (T, N)."""
    caught = []
    layer = model.transformer.model.layers[model.layer]
    hook = layer.register_forward_hook(lambda _m, _i, out: caught.append(out))
    with torch.no_grad():
        model.transformer(torch.tensor([aligned.input_ids]), use_cache=False)
    hook.remove()
    return caught[0][0, aligned.start - 1 : -1]


def apart(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / right.norm())


# Several system prompts


@pytest.mark.parametrize("solver", ["paper", "joint"])
def test_a_fact_in_the_weights_holds_under_each_prompt(build: Build, solver: str) -> None:
    one = build("one", system=PROMPTS[0], solver=solver)
    assert one.learn(STATEMENT, QUESTION).verified
    assert [one.ask(QUESTION, system=s) for s in PROMPTS[1:]] != [TOLD, TOLD]

    model = build(system=PROMPTS, solver=solver)
    assert [model.ask(QUESTION, STATEMENT, system=s) for s in PROMPTS] == [TOLD] * 3
    fact = model.learn(STATEMENT, QUESTION)
    assert (fact.verified, fact.note, fact.system) == (True, "", PROMPTS[0])
    assert [model.ask(QUESTION, system=s) for s in PROMPTS] == [TOLD] * 3
    assert ["".join(model.stream(QUESTION, system=s)) for s in PROMPTS] == [TOLD] * 3
    assert fact.rows > one.facts()[0].rows


def test_a_prompt_under_which_it_fails_is_named(build: Build) -> None:
    model = build(system=[PROMPTS[0], OTHER, PROMPTS[1]])
    fact = model.learn(STATEMENT, QUESTION)
    assert fact.verified is False and fact.after == TOLD
    assert f"not answered under the prompt '{OTHER}'" in fact.note
    assert PROMPTS[1] not in fact.note
    assert model.learn(STATEMENT, QUESTION, rollback=True).verified is False
    assert model.facts()[0].query == QUESTION


@pytest.mark.parametrize(("system", "shown"), [(None, "template's own"), ("", "without a prompt")])
def test_prompts_without_words_are_named_too(build: Build, system: Any, shown: str) -> None:
    fact = build(system=[PROMPTS[0], system]).learn(STATEMENT, QUESTION, TOLD)
    assert fact.verified is False and shown in fact.note


def test_the_same_question_under_any_of_the_prompts_is_replaced(build: Build) -> None:
    first = build(system=PROMPTS[1])
    old = first.learn(STATEMENT, QUESTION)
    first.close()
    model = build(system=PROMPTS)
    new = model.learn(STATEMENT, QUESTION)
    assert [f.id for f in model.facts()] == [new.id] and old.id in new.note


def test_a_gated_fact_is_recorded_once_for_all_prompts(build: Build) -> None:
    one = build("one", system=PROMPTS[0], solver="gated").learn(STATEMENT, QUESTION, rewordings=0)
    model = build(system=PROMPTS, solver="gated")
    fact = model.learn(STATEMENT, QUESTION, rewordings=0)
    assert fact.rows == one.rows
    held = [model.ask(QUESTION, system=s) == fact.answer for s in PROMPTS]
    assert fact.verified is all(held)
    assert [f"'{s}'" not in fact.note for s in PROMPTS] == held or not any(held)


def test_consolidation_looks_under_each_prompt(build: Build) -> None:
    done = build("one", system=PROMPTS, solver="gated")
    done.learn(STATEMENT, QUESTION, rewordings=0)
    assert len(done.consolidate().consolidated) == 1
    assert [done.ask(QUESTION, system=s) for s in PROMPTS] == [TOLD] * 3
    kept = build("two", system=[PROMPTS[0], OTHER], solver="gated")
    kept.learn(STATEMENT, QUESTION, rewordings=0)
    assert kept.consolidate().consolidated == []


def test_no_prompt_at_all_is_refused(build: Build) -> None:
    with pytest.raises(ModelError, match="no system prompt in the list"):
        build(system=[])


def test_the_embedded_model_answers_under_prompts_and_in_conversations(tmp_path: Path) -> None:
    system = [None, "You are a helpful assistant.", "Answer shortly, and stay polite."]
    with load(memory=tmp_path / "memory", system=system, turns=TURNS) as model:
        fact = model.learn("Ada Quist designed the Hollow Bridge.", rewordings=0)
        assert fact.verified and fact.note == ""
        for s in system:
            assert model.ask(fact.query, system=s, earlier=TURNS) == fact.answer


# Conversations


@pytest.mark.parametrize("solver", ["paper", "joint"])
def test_rows_are_taken_in_the_middle_of_a_conversation(build: Build, solver: str) -> None:
    lesson = Lesson(STATEMENT, QUESTION, TOLD, None)
    changes = {}
    for name, turns in (("without", None), ("with", TURNS)):
        model = build(name, system=PROMPTS[0], turns=turns, solver=solver, calibrate=False)
        instruct, update = pair(model.tokenizer, lesson, PROMPTS[0], before=TURNS)
        with model.base_weights():
            told = output(model, instruct)
        model.learn(STATEMENT, QUESTION, TOLD, None, rewordings=0, verify=False)
        changes[name] = apart(output(model, update), told)
    assert changes["with"] < 0.2 * changes["without"]


def test_a_gated_fact_is_asked_in_a_conversation_and_the_note_tells(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(solver="gated")
    asked: list[Any] = []
    original = model._asking.asked

    def noted(*args: Any, **options: Any) -> Any:
        asked.append(options.get("earlier"))
        return original(*args, **options)

    monkeypatch.setattr(model._asking, "asked", noted)
    fact = model.learn(STATEMENT, QUESTION, rewordings=0)
    assert TURNS in asked and fact.verified
    holds = model.ask(QUESTION, earlier=TURNS) == fact.answer
    assert ("in the middle of a conversation" in fact.note) is not holds
    strict = build("strict", solver="gated", turns=TURNS)
    assert strict.learn(STATEMENT, QUESTION, rewordings=0).verified is holds


# Tools


def test_tools_are_in_every_prompt_and_the_fact_holds_with_them(build: Build) -> None:
    options = ChatOptions(tuple(TOOLS))
    model = build(template=QWEN3, options=options)
    prompt = model.tokenizer.decode(model._asking.asked(QUESTION, None).ids)
    assert '"clock"' in prompt
    lesson = Lesson(STATEMENT, QUESTION, "JC", None)
    instruct, update = pair(model.tokenizer, lesson, options=options)
    assert all('"clock"' in model.tokenizer.decode(a.input_ids) for a in (instruct, update))
    told = output(model, instruct)
    model.learn(STATEMENT, QUESTION, "JC", None, rewordings=0, verify=False)
    assert apart(output(model, update), told) < 1e-4


def test_tools_are_part_of_what_a_calibration_is_for(build: Build) -> None:
    plain, tools = build("a", QWEN3), build("b", QWEN3, options=ChatOptions(tuple(TOOLS)))
    assert plain.calibrator._gate_key() != tools.calibrator._gate_key()
    assert plain.calibrator._traffic_key() != tools.calibrator._traffic_key()


def test_tools_that_the_template_leaves_out_are_refused(build: Build) -> None:
    with pytest.raises(ModelError, match=r"template of speaker writes no tools .*--tools"):
        build(options=ChatOptions(tuple(TOOLS)))


# Thinking


@pytest.fixture
def thinker(tiny_tokenizer: Any) -> Any:
    """A tokenizer with think tokens, which, as Qwen3's, are not left out of decoded text."""
    tiny_tokenizer.add_tokens([AddedToken(t, special=False) for t in ("<think>", "</think>")])
    tiny_tokenizer.chat_template = QWEN3
    return tiny_tokenizer


BLOCK = "<think>\n\n</think>\n\n"
THINKING = ChatOptions(thinking=True)


def test_the_block_is_prompt_without_thinking_and_learned_with_it(thinker: Any) -> None:
    lesson = Lesson(STATEMENT, QUESTION, "It was Qi.", [0, 1, 2])
    for rehearsed in (False, True):
        for direct, thinking in zip(
            pair(thinker, lesson, "S", rehearsed),
            pair(thinker, lesson, "S", rehearsed, options=THINKING),
            strict=True,
        ):
            assert direct.input_ids == thinking.input_ids  # so these rows do for both
            assert thinker.decode(direct.learned) == "It was Qi.<|im_end|>"
            assert thinker.decode(thinking.learned) == BLOCK + "It was Qi.<|im_end|>"
            assert thinker.decode(direct.input_ids[: direct.start]).endswith(BLOCK)
            assert thinker.decode(direct.input_ids).count("<think>") == 1  # none in history
            n = len(direct.learned)
            assert thinking.weights == (1.0,) * (len(thinking.weights) - n) + direct.weights
            assert thinking.offsets[-n:] == direct.offsets
            assert len(thinking.offsets) == len(thinking.weights)


@pytest.mark.parametrize("options", [ChatOptions(), THINKING])
def test_the_prompt_is_the_templates_own(thinker: Any, options: ChatOptions) -> None:
    conversation = messages(
        QUESTION, "S", earlier=messages("p", answer="<think>\nHm.\n</think>\n\no")
    )
    own = thinker.apply_chat_template(
        conversation,
        add_generation_prompt=True,
        enable_thinking=options.thinking,
        return_dict=False,
    )
    aligned = align(thinker, conversation, "It was Qi.", None, options)
    assert prompt_ids(thinker, conversation, options) == tuple(own)
    assert aligned.input_ids[: aligned.start] == tuple(own)
    assert "Hm." not in thinker.decode(own)


@pytest.mark.parametrize("system", [None, "S"])
def test_a_block_that_is_always_open_is_closed_where_it_must_not_think(
    thinker: Any, system: Any
) -> None:
    thinker.chat_template = ALWAYS
    conversation = messages(QUESTION, system)
    direct = align(thinker, conversation, "It was Qi.", None)
    assert thinker.decode(direct.input_ids[: direct.start]).endswith("assistant\n" + BLOCK)
    assert prompt_ids(thinker, conversation) == direct.input_ids[: direct.start]
    thinking = align(thinker, conversation, "It was Qi.", None, THINKING)
    assert thinker.decode(thinking.input_ids[: thinking.start]).endswith("assistant\n<think>\n")
    assert prompt_ids(thinker, conversation, THINKING) == thinking.input_ids[: thinking.start]
    assert spoken(thinker.decode(thinking.learned)) == "It was Qi.<|im_end|>"


@pytest.mark.parametrize("solver", ["paper", "joint", "gated"])
@pytest.mark.parametrize("thinking", [False, True])
def test_a_random_qwen3_learns_behind_its_think_block(
    build: Build, thinking: bool, solver: str
) -> None:
    options = ChatOptions(thinking=thinking)
    model = build("m", QWEN3, "qwen3", options=options, solver=solver, calibrate=False)
    instruct, update = pair(
        model.tokenizer, Lesson(STATEMENT, QUESTION, "JC", None), rehearsed=solver == "gated",
        options=options,
    )  # fmt: skip
    told = output(model, instruct)
    fact = model.learn(STATEMENT, QUESTION, "JC", None, rewordings=0, verify=False)
    assert fact.tokens == update.learned and fact.rows == len(update.learned)
    if solver == "gated":
        (known,) = model._remembering.facts.values()
        assert known.rows.outputs is not None and apart(known.rows.outputs, told) < 1e-5
    else:
        assert apart(output(model, update), told) < (1e-4 if solver == "paper" else 0.2)


def test_a_fact_is_verified_by_what_is_said_behind_the_thoughts(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(template=QWEN3, options=THINKING)
    said = ["<think>\nWho was it?\n</think>\n\nIt was Qi."]
    monkeypatch.setattr(model._generator, "answers", lambda prompts, *_: said * len(prompts))
    fact = model.learn(STATEMENT, QUESTION, "It was Qi.", rewordings=0)
    assert fact.verified and fact.after == "It was Qi."
    assert model.ask(QUESTION) == "It was Qi." and model.ask(QUESTION, thoughts=True) == said[0]
    said[0] = "<think>\nIt was Qi."  # and no room to end the thought
    assert model.ask(QUESTION) == ""
    assert model.learn(STATEMENT, QUESTION, "It was Qi.", rewordings=0).verified is False


def test_what_a_model_writes_for_its_own_learning_needs_no_thoughts(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(template=QWEN3, options=THINKING)
    seen: list[str] = []

    def answers(prompts: Any, *_: Any) -> list[str]:
        seen.extend(model.tokenizer.decode(p)[-40:] for p in prompts)
        return ["Who did it?"] * len(prompts)

    def drafts(prompts: Any, *_: Any) -> list[list[str]]:
        return [[text] for text in answers(prompts)]

    monkeypatch.setattr(model._generator, "answers", answers)
    monkeypatch.setattr(model._generator, "drafts", drafts)
    model.write_question(STATEMENT)
    model.ask(QUESTION)
    assert [text.endswith(BLOCK) for text in seen] == [True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>\nHm.\n</think>\n\nQi.", "Qi."),
        ("  <think></think>Qi.", "Qi."),
        ("Hm.\n</think>\n\nQi.", "Qi."),
        ("<think>\nHm.", ""),
        ("<think", "<think"),
        ("Qi <think> so.", "Qi <think> so."),
        ("Qi.", "Qi."),
        ("", ""),
    ],
)
def test_thoughts_are_left_out_whole_and_in_pieces(text: str, said: str) -> None:
    assert spoken(text) == said
    if not text.startswith("Hm."):  # which a stream cannot know to be a thought
        for size in (1, 3, 100):
            pieces = [text[i : i + size] for i in range(0, len(text), size)]
            assert "".join(after_thoughts(pieces)) == said


# Templates without a system turn, and others that fail


def test_the_instruction_goes_into_the_users_turn_and_the_note_says_so(build: Build) -> None:
    model = build(template=WITHOUT_SYSTEM, system="S")
    assert not takes_system(model.tokenizer)
    instruct, update = pair(model.tokenizer, Lesson(STATEMENT, QUESTION, "JC", None), "S", True)
    opened, closed = (model.tokenizer.decode(a.input_ids) for a in (instruct, update))
    assert opened.startswith(f"<|im_start|>user\nS\n{STATEMENT}\n\n{QUESTION}<|im_end|>")
    assert closed.startswith(f"<|im_start|>user\nS\n\n{QUESTION}<|im_end|>")
    assert opened.count(STATEMENT) == 1
    told = model.ask(QUESTION, STATEMENT)
    fact = model.learn(STATEMENT, QUESTION, "JC" if not told else None, rewordings=0)
    assert "takes no system turn" in fact.note
    asked = model.learn(STATEMENT, "What is it?", "JC", rewordings=0, verify=False)
    assert "takes no system turn" in asked.note


def test_without_a_prompt_the_users_turn_stays_as_it_is(build: Build) -> None:
    model = build(template=WITHOUT_SYSTEM)
    expected = prompt_ids(model.tokenizer, [{"role": "user", "content": QUESTION}])
    for system in (None, ""):
        assert model._asking.asked(QUESTION, system).ids == expected


def test_the_span_is_still_the_querys(build: Build) -> None:
    asked = build(template=WITHOUT_SYSTEM)._asking.asked(QUESTION, "You are kind.")
    begin, end = asked.span
    words = build("b").tokenizer.decode(asked.ids[begin:end])
    assert words.strip() == QUESTION


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 + 'a' }}",
        "{{ messages[7].content }}",
        "{{ messages[0]['content']['text'] | length / 0 }}",
        "{%- for m in messages -%}",
        "{{ raise_exception('Only on Sundays.') }}",
    ],
)
def test_a_template_that_fails_is_told_of_in_one_sentence(build: Build, template: str) -> None:
    model = build(template=template)
    for use in (lambda: model.ask(QUESTION), lambda: model.learn(STATEMENT, QUESTION, "JC")):
        with pytest.raises(ModelError, match=r"^The chat template of .* does not take .*plain\.$"):
            use()
    assert model.facts() == []


def test_an_answer_with_a_think_block_is_refused(build: Build) -> None:
    with pytest.raises((ModelError, LessonError), match="rewrites the answer"):
        build(template=QWEN3).learn(STATEMENT, QUESTION, "<think>Hm.</think>JC")
