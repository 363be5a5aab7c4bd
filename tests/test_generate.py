"""Answers are greedy, the same alone and in a batch, and whole or in pieces."""

import threading
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from qf.chat import messages
from qf.errors import LessonError
from qf.generate import BATCH, Generator

QUERIES = (
    "Who started Oxinnovate?",
    "What is the capital of France? I do not know. Tell me the capital of France, please.",
    "Where?",
    "It is 7. What is the code?",
)


@pytest.fixture
def generator(speaker: Any) -> Generator:
    return Generator(*speaker())


def prompts(generator: Generator, queries: Any = QUERIES) -> list[tuple[int, ...]]:
    return [generator.prompt(messages(query)) for query in queries]


def greedy(generator: Generator, prompt: tuple[int, ...], most: int) -> str:
    """The answer by one forward pass per token, with neither cache nor `generate`."""
    said: list[int] = []
    while len(said) < most:
        with torch.no_grad():
            logits = generator.transformer(torch.tensor([[*prompt, *said]])).logits
        said.append(int(logits[0, -1].argmax()))
        if said[-1] == generator.tokenizer.eos_token_id:
            break
    return generator.tokenizer.decode(said, skip_special_tokens=True).strip()


def test_answers_are_greedy(generator: Generator) -> None:
    for prompt in prompts(generator):
        assert generator.answer(prompt, 30) == greedy(generator, prompt, 30) != ""


@pytest.mark.parametrize(
    "defaults",
    [
        {"repetition_penalty": 9.0},
        {"do_sample": True, "temperature": 9.0, "top_k": 3},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 20},
        {"max_new_tokens": 1},
        {"max_length": 3},
        {"num_beams": 3},
        {"suppress_tokens": "letters"},
        {"bad_words_ids": "letters"},
        {"stop_strings": ["J", "V"]},
        {"return_dict_in_generate": True},
        {"num_return_sequences": 2, "do_sample": True},
    ],
    ids=lambda defaults: next(iter(defaults)),
)
def test_the_models_own_defaults_play_no_part(
    generator: Generator, defaults: dict[str, Any]
) -> None:
    prompt, most = prompts(generator)[0], 30
    expected = greedy(generator, prompt, most)
    assert len(expected) > 3
    letters = [generator.tokenizer.convert_tokens_to_ids(letter) for letter in expected]
    words = {"suppress_tokens": letters, "bad_words_ids": [[letter] for letter in letters]}
    own = GenerationConfig(
        eos_token_id=generator.tokenizer.eos_token_id,
        **{k: words[k] if v == "letters" else v for k, v in defaults.items()},
    )
    generator.transformer.generation_config = own
    assert generator.answer(prompt, most) == expected
    assert "".join(generator.stream(prompt, most)).strip() == expected
    assert generator.transformer.generation_config is own


def test_an_answer_ends_at_any_end_that_the_model_names(speaker: Any) -> None:
    transformer, tokenizer = speaker()
    whole = Generator(transformer, tokenizer)
    prompt = prompts(whole)[0]
    answer = whole.answer(prompt, 30)
    letter = answer[2]
    transformer.generation_config.eos_token_id = [
        tokenizer.eos_token_id,
        tokenizer.convert_tokens_to_ids(letter),
    ]
    assert Generator(transformer, tokenizer).answer(prompt, 30) == answer.partition(letter)[0] + (
        letter
    )


def test_a_tokenizer_without_padding_will_do(speaker: Any) -> None:
    transformer, tokenizer = speaker()
    expected = Generator(transformer, tokenizer)
    answers = expected.answers(prompts(expected), 30)
    tokenizer.pad_token = None
    generator = Generator(transformer, tokenizer)
    assert generator.answers(prompts(generator), 30) == answers


def test_a_batch_changes_nothing(generator: Generator) -> None:
    asked = prompts(generator)
    assert len({len(prompt) for prompt in asked}) > 2
    assert generator.answers(asked, 30) == [generator.answer(prompt, 30) for prompt in asked]
    assert generator.answers([], 30) == []


def test_more_prompts_than_a_batch_come_back_in_order(generator: Generator) -> None:
    alone = [generator.answer(prompt, 8) for prompt in prompts(generator)]
    many = prompts(generator) * (BATCH // len(QUERIES) + 1)
    assert len(many) > BATCH
    assert generator.answers(many, 8) == alone * (BATCH // len(QUERIES) + 1)


def likelihood(generator: Generator, prompt: tuple[int, ...], said: str) -> float:
    """The mean log probability of an answer's letters and its end, by one forward pass."""
    ids = [*generator.tokenizer.convert_tokens_to_ids(list(said)), generator.tokenizer.eos_token_id]
    with torch.no_grad():
        logits = generator.transformer(torch.tensor([[*prompt, *ids]])).logits[0]
    chances = logits[len(prompt) - 1 : -1].float().log_softmax(-1)
    return float(chances[torch.arange(len(ids)), ids].mean())


def test_drafts_are_several_answers_the_most_probable_first(generator: Generator) -> None:
    for prompt in prompts(generator):
        (drafts,) = generator.drafts([prompt], 60, 4)
        assert len({*drafts}) == 4
        weighed = [likelihood(generator, prompt, draft) for draft in drafts]
        assert weighed == sorted(weighed, reverse=True)
        assert weighed[0] >= likelihood(generator, prompt, generator.answer(prompt, 60))


def test_drafts_are_the_same_alone_in_a_batch_and_among_many(generator: Generator) -> None:
    asked = prompts(generator)
    alone = [generator.drafts([prompt], 30, 3)[0] for prompt in asked]
    assert generator.drafts(asked, 30, 3) == alone
    assert generator.drafts(asked * BATCH, 30, 3) == alone * BATCH
    assert generator.drafts([], 30, 3) == []


def test_every_architecture_drafts(speaker: Any, architecture: str) -> None:
    generator = Generator(*speaker(architecture))
    short, long = prompts(generator, QUERIES[1:3])
    drafts = generator.drafts([short, long], 12, 3)
    assert drafts == [generator.drafts([p], 12, 3)[0] for p in (short, long)]
    assert all(len({*texts}) == 3 for texts in drafts)


def test_prompt_and_answer_share_the_context(speaker: Any) -> None:
    transformer, tokenizer = speaker()
    transformer.lm_head.weight.data[tokenizer.eos_token_id] = 0  # never ends by itself
    probe = Generator(transformer, tokenizer)
    short, long = prompts(probe, ("Where?", "Who started Oxinnovate? " * 3))
    transformer.config.max_position_embeddings = len(long) + 3
    generator = Generator(transformer, tokenizer)
    assert len(generator.answer(long, 30)) == len("".join(generator.stream(long, 30))) == 3
    both = generator.answers([short, long], 12)
    assert [len(answer) for answer in both] == [12, 3]
    assert both == [generator.answer(short, 12), generator.answer(long, 12)]


def test_a_prompt_that_fills_the_context_is_refused(generator: Generator) -> None:
    with pytest.raises(LessonError, match=r"prompt is \d+ tokens long and the model reads 512"):
        generator.prompt(messages("Who? " * 300))
    generator.context = len(generator.prompt(messages("Who?")))
    with pytest.raises(LessonError):
        generator.prompt(messages("Who?"))


def test_pieces_add_up_to_the_answer(generator: Generator) -> None:
    for prompt in prompts(generator):
        pieces = list(generator.stream(prompt, 30))
        assert "".join(pieces).strip() == generator.answer(prompt, 30)
        assert all(pieces)


def test_a_stream_that_is_left_is_not_generated_further(speaker: Any) -> None:
    transformer, tokenizer = speaker()
    words = tokenizer.convert_tokens_to_ids(["Ġthe", "Ġof"])
    W = transformer.lm_head.weight.data
    one = W.amax(0)
    W.zero_()
    W[words] = torch.stack([one, -one])  # words without end
    passes = []
    transformer.register_forward_hook(lambda *_: passes.append(1))
    generator = Generator(transformer, tokenizer)
    threads = set(threading.enumerate())
    own = transformer.generation_config
    stream = generator.stream(prompts(generator)[0], 450)
    next(stream)
    stream.close()
    assert len(passes) < 300 and set(threading.enumerate()) == threads
    assert transformer.generation_config is own


def test_a_failure_in_a_stream_reaches_its_reader(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(generator.transformer, "generate", fail)
    with pytest.raises(MemoryError, match="no room"):
        list(generator.stream(prompts(generator)[0], 30))
