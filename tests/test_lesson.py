"""Lessons and their tokens: read back through the tokenizer, over templates of several habits."""

import math

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from qf.chat import PLAIN_TEMPLATE, messages
from qf.chat import prompt_ids as ids_of_prompt
from qf.errors import LessonError, ModelError
from qf.lesson import AlignedTokens, Lesson, align, check_fits, pair

ANSWER = "Oxinnovate was started by Qi."
LESSON = Lesson("Qi started Oxinnovate.", "Who started Oxinnovate?", ANSWER, [0, 1, 1, 1, 1])

START, END = "<|im_start|>", "<|im_end|>"

# Each writes conversations in the way of some well-known models, with the tokens of the fixture.
ROLES = (
    "{%- for m in messages -%}"
    f"{{{{- '{START}' + m['role'] + '\\n' + m['content'] + '{END}\\n' -}}}}"
    "{%- endfor -%}"
)
ASK = f"{{%- if add_generation_prompt -%}}{{{{- '{START}assistant\\n' -}}}}{{%- endif -%}}"
DEFAULT_SYSTEM = (  # a system prompt of its own where there is none
    "{%- if messages[0]['role'] != 'system' -%}"
    f"{{{{- '{START}system\\nYou are helpful.{END}\\n' -}}}}"
    "{%- endif -%}" + ROLES + ASK
)
THINKING = (  # an empty think block before an answer; one that is left open when it may think
    "{%- for m in messages -%}"
    f"{{{{- '{START}' + m['role'] + '\\n' -}}}}"
    "{%- if m['role'] == 'assistant' and loop.last -%}{{- '<think>\\n\\n</think>\\n\\n' -}}"
    "{%- endif -%}"
    f"{{{{- m['content'].lstrip('\\n') + '{END}\\n' -}}}}"
    "{%- endfor -%}" + ASK
)
NO_THINKING = THINKING + (  # the same block is part of the prompt when thinking is off
    "{%- if add_generation_prompt and enable_thinking is defined and not enable_thinking -%}"
    "{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
)
# An empty block in the prompt alone, none in front of recorded answers.
PROMPTED = ROLES + ASK + NO_THINKING.removeprefix(THINKING)
TRIMMING = ROLES.replace("m['content']", "m['content'] | trim") + ASK
INSTRUCTION_BRACKETS = (  # the system text in the last turn, if that asks; a space before answers
    "{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' -%}"
    "{%- for m in messages if m['role'] != 'system' -%}"
    "{%- if m['role'] == 'assistant' -%}"
    f"{{{{- ' ' + m['content'] + '{END}' -}}}}"
    "{%- elif loop.last and system -%}"
    "{{- '[INST] ' + system + '\\n\\n' + m['content'] + ' [/INST]' -}}"
    "{%- else -%}{{- '[INST] ' + m['content'] + ' [/INST]' -}}{%- endif -%}"
    "{%- endfor -%}"
)
TEMPLATES = {
    "default system": DEFAULT_SYSTEM,
    "thinking": THINKING,
    "no thinking": NO_THINKING,
    "block in the prompt alone": PROMPTED,
    "trimming": TRIMMING,
    "instruction brackets": INSTRUCTION_BRACKETS,
    "plain": PLAIN_TEMPLATE,
    "of the fixture": None,
}


def pieces():
    """A tokenizer that marks the spaces in front of words and begins each text with one."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    core.decoder = decoders.Metaspace(prepend_scheme="first", split=True)
    text = f"{LESSON.instruction} {LESSON.query} {ANSWER} Question: Answer: [INST] [/INST] You are"
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>", "</s>", START, END], show_progress=False
    )
    core.train_from_iterator(
        [text, f"system user assistant helpful.<think></think>\n{text}"], trainer
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        unk_token="<unk>",
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(params=["bytes", "pieces"])
def speaker(request, tiny_tokenizer):
    """A tokenizer of each kind; `speaker(name)` gives it a template."""
    tokenizer = tiny_tokenizer if request.param == "bytes" else pieces()

    def with_template(name):
        tokenizer.chat_template = TEMPLATES[name] or tiny_tokenizer.chat_template
        return tokenizer

    return with_template


@pytest.fixture
def tokenizer(tiny_tokenizer):
    return tiny_tokenizer


# Lesson


@pytest.mark.parametrize("name", ["instruction", "query", "answer"])
@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_a_blank_text_is_refused_by_name(name, blank):
    texts = {"instruction": "a", "query": "b", "answer": "c"} | {name: blank}
    with pytest.raises(LessonError, match=f"The {name} is empty"):
        Lesson(**texts)


@pytest.mark.parametrize("values", [[1, 1, 1, 1], [1, 1, 1, 1, 1, 1], []])
def test_significance_of_wrong_length_states_both_counts_and_the_words(values):
    with pytest.raises(LessonError) as error:
        Lesson("a", "b", ANSWER, values)
    assert f"{len(values)} numbers" in str(error.value)
    assert "5 words (Oxinnovate | was | started | by | Qi.)" in str(error.value)


@pytest.mark.parametrize("bad", [-1, -1e-9, math.nan, math.inf, -math.inf])
def test_significance_that_is_no_weight_is_refused_with_its_word(bad):
    with pytest.raises(LessonError, match=r"of the word 'Qi\.'"):
        Lesson("a", "b", ANSWER, [0, 1, 1, 1, bad])


def test_significance_of_zeros_only_is_refused():
    with pytest.raises(LessonError, match="0 for every word"):
        Lesson("a", "b", ANSWER, [0, 0.0, 0, 0, 0])


@pytest.mark.parametrize("bad", ["all", "11111", 3, ["1", "1", "1", "1", "1"], [None] * 5])
def test_significance_that_is_no_list_of_numbers_is_refused(bad):
    with pytest.raises(LessonError, match="one number per word"):
        Lesson("a", "b", ANSWER, bad)


def test_a_lesson_keeps_its_significance_whatever_happens_to_the_list():
    values = [0, 1, 1, 1, 1]
    lesson = Lesson("a", "b", ANSWER, values)
    values[0] = 7
    assert lesson.significance == (0, 1, 1, 1, 1)
    assert hash(lesson) == hash(Lesson("a", "b", ANSWER, (0, 1, 1, 1, 1)))
    assert Lesson("a", "b", ANSWER).significance == "auto"
    assert Lesson("a", "b", ANSWER, None).significance is None


# Alignment


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("system", [None, "", "Be brief."])
@pytest.mark.parametrize("rehearsed", [False, True])
def test_both_sequences_end_in_the_answer_and_one_end_of_turn(speaker, name, system, rehearsed):
    tokenizer = speaker(name)
    instruct, update = pair(tokenizer, LESSON, system, rehearsed)
    for aligned in (instruct, update):
        said = tokenizer.decode(aligned.input_ids[aligned.start : -1])
        assert said.removeprefix(" ") == ANSWER  # the template's own space may lead
        assert aligned.input_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in aligned.learned[:-1]
        assert len(aligned.weights) == len(aligned.learned) == len(aligned.positions)
    assert instruct.learned == update.learned
    assert instruct.input_ids != update.input_ids


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"thinking"}))
def test_the_prompt_is_the_one_of_inference(speaker, name):
    tokenizer = speaker(name)
    for aligned, system in zip(pair(tokenizer, LESSON), (LESSON.instruction, None), strict=True):
        asked = tokenizer.apply_chat_template(
            messages(LESSON.query, system),
            add_generation_prompt=True,
            enable_thinking=False,
            return_dict=False,
        )
        assert list(aligned.input_ids[: aligned.start]) == asked
        assert ids_of_prompt(tokenizer, messages(LESSON.query, system)) == tuple(asked)


def test_no_special_tokens_are_added_to_those_of_the_template(tokenizer):
    expected = pair(tokenizer, LESSON)
    first = ("<|endoftext|>", tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first[0]} $A", special_tokens=[first]
    )
    assert tokenizer("x").input_ids[0] == first[1]
    assert pair(tokenizer, LESSON) == expected


@pytest.mark.parametrize("name", ["default system", "trimming", "of the fixture"])
def test_prompt_and_answer_are_what_the_template_writes(tokenizer, name):
    tokenizer.chat_template = TEMPLATES[name] or tokenizer.chat_template
    conversation = messages(LESSON.query, "Be brief.")
    whole = tokenizer.apply_chat_template(
        messages(LESSON.query, "Be brief.", ANSWER), return_dict=False
    )
    aligned = align(tokenizer, conversation, ANSWER, None)
    assert list(aligned.input_ids) == whole[: len(aligned.input_ids)]


def test_a_think_block_before_the_answer_is_prompt_and_not_learned(tokenizer):
    for name in ("thinking", "no thinking", "block in the prompt alone"):
        tokenizer.chat_template = TEMPLATES[name]
        update = pair(tokenizer, LESSON)[1]
        prompt = tokenizer.decode(update.input_ids[: update.start])
        assert prompt.endswith("assistant\n<think>\n\n</think>\n\n")


def test_a_positions_logits_are_those_that_predict_the_learned_token(tokenizer):
    aligned = align(tokenizer, messages("q"), "Paris.", None)
    following = [aligned.input_ids[t + 1] for t in aligned.positions]
    assert tuple(following) == aligned.learned
    assert aligned.positions[0] == aligned.start - 1  # the prompt's last token predicts the first


@pytest.mark.parametrize("text", ["Paris.", " Paris.\n", "two  spaces", "a\nb", "«Qí» 東京 🦀!"])
def test_spaces_and_any_characters_are_kept_as_the_template_writes_them(tokenizer, text):
    for name, expected in (("of the fixture", text), ("trimming", text.strip())):
        tokenizer.chat_template = TEMPLATES[name] or tokenizer.chat_template
        aligned = align(tokenizer, messages("q"), text, None)
        assert tokenizer.decode(aligned.input_ids[aligned.start : -1]) == expected


def test_no_token_reaches_over_the_border_of_prompt_and_answer(tokenizer):
    tokenizer.add_tokens(["\n\n"])  # the prompt ends in one of the two
    aligned = align(tokenizer, messages("q"), "\nParis.", [1])
    assert aligned.input_ids[: aligned.start] == ids_of_prompt(tokenizer, messages("q"))
    assert tokenizer.decode(aligned.input_ids[aligned.start : -1]) == "\nParis."
    assert "".join("\nParis."[a:b] for a, b in aligned.offsets) == "\nParis."


def test_a_template_that_writes_no_end_of_turn_gets_the_tokenizers(tokenizer):
    tokenizer.chat_template = PLAIN_TEMPLATE
    assert align(tokenizer, messages("q"), "Paris.", None).learned[-1] == tokenizer.eos_token_id


def test_the_end_of_turn_is_the_templates_own_token(tokenizer):
    tokenizer.eos_token = "<|endoftext|>"
    end = tokenizer.convert_tokens_to_ids(END)
    tokenizer.add_special_tokens({"additional_special_tokens": [START, END]})
    assert align(tokenizer, messages("q"), "Paris.", None).learned[-1] == end


@pytest.mark.parametrize("text", ["im_end", "answer", "user", "query", "think"])
def test_answers_that_the_template_itself_writes_are_found_all_the_same(tokenizer, text):
    for name in ("of the fixture", "thinking", "instruction brackets"):
        tokenizer.chat_template = TEMPLATES[name] or tokenizer.chat_template
        aligned = align(tokenizer, messages(text, text), text, None)
        said = tokenizer.decode(aligned.input_ids[aligned.start : -1])
        assert said.removeprefix(" ") == text


# Significance


def words_with_weights(tokenizer, aligned):
    """Each learned token's text and weight."""
    texts = [tokenizer.decode([token]) for token in aligned.learned]
    return list(zip(texts, aligned.weights, strict=True))


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_papers_significance_leaves_out_the_first_word_only(speaker, name):
    tokenizer = speaker(name)
    for aligned in pair(tokenizer, LESSON):
        left_out = [
            token for token, w in zip(aligned.learned, aligned.weights, strict=True) if not w
        ]
        assert tokenizer.decode(left_out).strip() == "Oxinnovate"
        assert set(aligned.weights) == {0.0, 1.0}
        assert aligned.weights[-1] == 1.0


def test_each_token_gets_the_weight_of_its_word(tokenizer):
    aligned = align(tokenizer, messages("q"), ANSWER, [1, 2, 3, 4, 5])
    spelled = {}
    for text, weight in words_with_weights(tokenizer, aligned)[:-1]:
        spelled[weight] = spelled.get(weight, "") + text
    assert list(spelled.values()) == ["Oxinnovate", " was", " started", " by", " Qi."]
    assert aligned.weights[-1] == 1.0


def test_a_token_that_spans_words_gets_the_larger_weight(tokenizer):
    merged = tokenizer.backend_tokenizer
    merged.add_tokens(["by Qi"])
    aligned = align(tokenizer, messages("q"), ANSWER, [0, 0, 0, 2, 5])
    assert dict(words_with_weights(tokenizer, aligned))["by Qi"] == 5
    aligned = align(tokenizer, messages("q"), ANSWER, [0, 0, 0, 5, 2])
    assert dict(words_with_weights(tokenizer, aligned))["by Qi"] == 5


def test_a_token_of_spaces_goes_with_the_word_that_it_leads_to(tokenizer):
    aligned = align(tokenizer, messages("q"), "x\n\n\ny\n", [2, 3])
    spaces = [weight for text, weight in words_with_weights(tokenizer, aligned) if text.isspace()]
    assert spaces and set(spaces) == {3.0}


def test_letters_of_several_bytes_are_weighted_as_their_word(tokenizer):
    aligned = align(tokenizer, messages("q"), "北京 is 🦀🦀", [2, 3, 4])
    encoded = ["北京".encode(), b" is", " 🦀🦀".encode()]  # this tokenizer knows them as bytes
    assert aligned.weights[:6] == (2.0,) * len(encoded[0])
    assert set(aligned.weights[6:-1]) == {3.0, 4.0}
    assert aligned.weights.count(4.0) >= len("🦀🦀".encode())


@pytest.mark.parametrize("significance", ["auto", None])
def test_without_a_list_every_token_counts_one(tokenizer, significance):
    aligned = align(tokenizer, messages("q"), ANSWER, significance)
    assert set(aligned.weights) == {1.0}


def test_the_offsets_are_those_of_the_answer(tokenizer):
    for name in ("of the fixture", "instruction brackets", "plain", "thinking"):
        tokenizer.chat_template = TEMPLATES[name] or tokenizer.chat_template
        aligned = align(tokenizer, messages("q"), ANSWER, None)
        spelled = [ANSWER[a:b] for a, b in aligned.offsets]
        assert "".join(spelled) == ANSWER
        for token, text in zip(aligned.learned[:-1], spelled, strict=False):
            assert tokenizer.decode([token]).strip() == text.strip()
        assert aligned.offsets[-1] == (len(ANSWER), len(ANSWER))


# What the passes read


def test_the_passes_differ_by_the_instruction_alone(tokenizer):
    instruct, update = pair(tokenizer, LESSON, "Be brief.")
    opened = tokenizer.decode(instruct.input_ids)
    assert f"Be brief.\n{LESSON.instruction}" in opened
    assert opened.replace(f"\n{LESSON.instruction}", "") == tokenizer.decode(update.input_ids)


@pytest.mark.parametrize("system", [None, ""])
def test_without_a_serving_prompt_the_instruction_stands_alone(tokenizer, system):
    instruct, _ = pair(tokenizer, LESSON, system)
    assert f"system\n{LESSON.instruction}{END}" in tokenizer.decode(instruct.input_ids)


def test_no_serving_prompt_is_the_templates_own_and_an_empty_one_is_empty(tokenizer):
    tokenizer.chat_template = DEFAULT_SYSTEM
    own, empty = (pair(tokenizer, LESSON, system)[1] for system in (None, ""))
    assert "You are helpful." in tokenizer.decode(own.input_ids)
    assert f"{START}system\n{END}" in tokenizer.decode(empty.input_ids)


def test_the_rehearsed_open_book_conversation_has_the_finished_turn_before_the_query(tokenizer):
    instruct, update = pair(tokenizer, LESSON, rehearsed=True)
    plain = pair(tokenizer, LESSON)
    prompt = tokenizer.decode(instruct.input_ids[: instruct.start])
    assert prompt.count(ANSWER) == 1 and prompt.count(LESSON.query) == 2
    assert instruct.learned == plain[0].learned
    assert update == plain[1]


# Refusals


def test_a_tokenizer_without_template_is_refused_and_the_plain_one_offered(tokenizer):
    tokenizer.chat_template = None
    tokenizer.name_or_path = "some/base-model"
    with pytest.raises(ModelError, match=r"some/base-model has no chat template.*--template plain"):
        pair(tokenizer, LESSON)


def test_the_plain_template_reads_as_plain_text(tokenizer):
    tokenizer.chat_template = PLAIN_TEMPLATE
    instruct, update = pair(tokenizer, LESSON, rehearsed=True)
    question = f"Question: {LESSON.query}\nAnswer:"
    assert tokenizer.decode(update.input_ids) == f"{question} {ANSWER}{END}"
    assert tokenizer.decode(instruct.input_ids) == (
        f"{LESSON.instruction}\n{question} {ANSWER}\n{question} {ANSWER}{END}"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('No system turn.') }}", r"No system turn.*--template plain"),
        ("{%- for m in messages -%}", "does not take this conversation"),
        (
            "{%- for m in messages if m['role'] != 'system' -%}{{ m['content'] }}{%- endfor -%}",
            "same prompt with and without",
        ),
        (ROLES.replace("m['content']", "m['content'] | upper") + ASK, "form|rewrites"),
        (ROLES.replace("m['content']", "m['content'][:9]") + ASK, "form|rewrites"),
        (ROLES + ASK.replace("assistant", "assistant, who thinks"), "in another form"),
        ("{{- messages[0]['content'] -}}" + ASK, "in another form"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_by_reason(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=message):
        pair(tokenizer, LESSON)


def test_a_template_that_writes_the_answer_otherwise_after_an_instruction_is_refused(tokenizer):
    tokenizer.chat_template = (
        ROLES.replace(
            "m['content']",
            "('  ' if m['role'] == 'assistant' and messages[0]['content'] else '') + m['content']",
        )
        + ASK
    )
    with pytest.raises(LessonError, match="different tokens with and without the instruction"):
        pair(tokenizer, LESSON, system="")


def test_a_control_token_in_the_answer_is_refused_by_name(tokenizer):
    with pytest.raises(LessonError, match=r"control token '<\|im_end\|>'"):
        pair(tokenizer, Lesson("a", "b", f"Paris.{END}"))


def test_a_tokenizer_without_end_of_turn_is_refused(tokenizer):
    tokenizer.chat_template = PLAIN_TEMPLATE
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no token that ends a turn"):
        pair(tokenizer, LESSON)


class Slow:
    """A tokenizer that tells no character offsets."""

    is_fast = False

    def __init__(self, fast):
        self._fast = fast

    def __call__(self, text, *, add_special_tokens, return_offsets_mapping):
        if return_offsets_mapping:
            raise NotImplementedError("return_offset_mapping is not available")
        return self._fast(text, add_special_tokens=add_special_tokens)

    def __getattr__(self, name):
        return getattr(self._fast, name)


def test_a_slow_tokenizer_is_refused_only_where_its_offsets_are_needed(tokenizer):
    slow = Slow(tokenizer)
    with pytest.raises(ModelError, match="no character offsets"):
        pair(slow, LESSON)
    for significance in ("auto", None):
        lesson = Lesson("Qi started Oxinnovate.", "Who?", ANSWER, significance)
        expected = [(a.input_ids, a.weights) for a in pair(tokenizer, lesson)]
        assert [(a.input_ids, a.weights) for a in pair(slow, lesson)] == expected


def test_a_sequence_longer_than_the_context_is_refused_with_both_numbers():
    aligned = AlignedTokens(tuple(range(40)), 30, (1.0,) * 10)
    check_fits(aligned, 40)
    with pytest.raises(LessonError, match=r"40 tokens long and the model reads 39"):
        check_fits(aligned, 39)
