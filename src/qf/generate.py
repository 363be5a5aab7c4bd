"""QF-infer: tokens in, greedy answer out, through Transformers' own `generate`.

Knows a Transformers model and its tokenizer; nothing of facts or of learning.
"""

from __future__ import annotations

import threading
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from qf.chat import (
    PLAIN_CHAT,
    THINK,
    THOUGHT,
    ChatOptions,
    Shown,
    prompt_with_image,
    prompt_with_span,
)
from qf.errors import LessonError
from qf.families.placement import device_of

BATCH = 64
Around = Callable[[slice, int], AbstractContextManager[None]]
"""What holds while a batch of the prompts, padded to a length, is answered."""


class _Stop(StoppingCriteria):  # type: ignore[misc]
    """Ends a generation when nobody reads it any more."""

    def __init__(self) -> None:
        self.wanted = False

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.full((len(input_ids),), self.wanted, device=input_ids.device)


class _Forced(LogitsProcessor):  # type: ignore[misc]
    """Has given tokens said, whatever the model would say, and keeps what it thought of them."""

    def __init__(self, answers: Sequence[Sequence[int]], longest: int) -> None:
        self.answers, self.longest = answers, longest
        self.heard: list[list[tuple[float, int]]] = [[] for _ in answers]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        step = input_ids.shape[1] - self.longest
        wanted = [a[min(step, len(a) - 1)] for a in self.answers]  # one that has ended is not read
        at = torch.arange(len(wanted)), torch.tensor(wanted)
        chances = scores.float().log_softmax(-1).cpu()
        found = zip(chances[at].tolist(), chances.argmax(-1).tolist(), strict=True)
        for heard, answer, each in zip(self.heard, self.answers, found, strict=True):
            if step < len(answer):
                heard.append(each)
        forced = torch.full_like(scores, -torch.inf)
        forced[at] = 0.0
        return forced


class Generator:
    """Answers prompts of one model, greedily and without its sampling defaults."""

    def __init__(self, transformer: Any, tokenizer: Any) -> None:
        self.transformer, self.tokenizer = transformer, tokenizer
        ends = getattr(transformer.generation_config, "eos_token_id", None)
        ends = ends if isinstance(ends, list) else [ends]
        self.eos_ids = sorted({t for t in (*ends, tokenizer.eos_token_id) if t is not None})
        pad = tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None else self.eos_ids[0] if self.eos_ids else 0
        config = transformer.config.get_text_config()
        self.context: int = getattr(config, "max_position_embeddings", None) or 1 << 30

    def prompt(
        self, conversation: Sequence[Mapping[str, str]], options: ChatOptions = PLAIN_CHAT
    ) -> tuple[int, ...]:
        """Tokens of a conversation up to where the model answers.

        Raises LessonError when no room for an answer is left in the context.
        """
        return self.prompt_with_span(conversation, options)[0]

    def prompt_with_span(
        self, conversation: Sequence[Mapping[str, str]], options: ChatOptions = PLAIN_CHAT
    ) -> tuple[tuple[int, ...], tuple[int, int]]:
        """As `prompt`, and which of the tokens are the last query's: [from, to)."""
        ids, span = prompt_with_span(self.tokenizer, conversation, options)
        self._check_room(ids, "shorten it")
        return ids, span

    def prompt_with_image(
        self,
        conversation: Sequence[Mapping[str, str]],
        image: Shown,
        options: ChatOptions = PLAIN_CHAT,
    ) -> tuple[tuple[int, ...], tuple[int, int], dict[str, Any]]:
        """As `prompt_with_span`, of a conversation with a picture, and what else the model takes.

        Raises LessonError, too, for a picture that cannot be used.
        """
        ids, span, extra = prompt_with_image(self.tokenizer, conversation, image, options)
        self._check_room(ids, "show a smaller picture")
        return ids, span, extra

    def answer(self, prompt: Sequence[int], max_tokens: int) -> str:
        """The answer to one prompt, without surrounding space."""
        return self.answers([prompt], max_tokens)[0]

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        around: Around | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """The answers to several prompts, batched; each is as if it had been asked alone.

        `around` gives a context to enter while a batch is answered. `extra` is what the model takes
        besides the tokens, of a single prompt.
        """
        assert not extra or len(prompts) == 1
        texts: list[str] = []
        for first in range(0, len(prompts), BATCH):
            batch = prompts[first : first + BATCH]
            longest = max(len(p) for p in batch)
            rooms = [self._room(p, max_tokens) for p in batch]
            with around(slice(first, first + BATCH), longest) if around else nullcontext():
                generated = self._generate(batch, longest, max(rooms), extra)[:, longest:]
            own = [ids[:room] for ids, room in zip(generated, rooms, strict=True)]
            texts += self.tokenizer.batch_decode(own, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def drafts(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, count: int
    ) -> list[list[str]]:
        """`count` answers to each prompt, found by beam search, the most probable first."""
        drafts: list[list[str]] = []
        for first in range(0, len(prompts), BATCH // count):
            batch = prompts[first : first + BATCH // count]
            longest = max(map(len, batch))
            rooms = [self._room(p, max_tokens) for p in batch]
            generated = self._generate(batch, longest, max(rooms), beams=count)[:, longest:]
            for beams, room in zip(generated.split(count), rooms, strict=True):
                texts = self.tokenizer.batch_decode(beams[:, :room], skip_special_tokens=True)
                drafts.append([text.strip() for text in texts])
        return drafts

    def forced(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        around: Around | None = None,
    ) -> list[list[tuple[float, int]]]:
        """What the model thinks of given answers, token by token, each after the right ones.

        Of each token its log probability, and the most probable token in its place. `around` is
        that of `answers`: token by token, so that what acts on a generation acts here.
        """
        found: list[list[tuple[float, int]]] = []
        for first in range(0, len(prompts), BATCH):
            batch, said = prompts[first : first + BATCH], answers[first : first + BATCH]
            longest = max(map(len, batch))
            forced = _Forced(said, longest)
            with around(slice(first, first + BATCH), longest) if around else nullcontext():
                self._generate(batch, longest, max(map(len, said)), forced=forced)
            found += forced.heard
        return found

    def stream(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        around: Around | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> abc.Generator[str]:
        """The answer to one prompt in pieces; a reader that leaves ends the generation."""
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        stop, failures = _Stop(), []
        room = self._room(prompt, max_tokens)

        def run() -> None:
            try:
                with around(slice(0, 1), len(prompt)) if around else nullcontext():
                    self._generate([prompt], len(prompt), room, extra, streamer, stop)
            except BaseException as error:
                failures.append(error)
                streamer.end()

        worker = threading.Thread(target=run, daemon=True)
        worker.start()
        try:
            yield from _without_lead(streamer)
        finally:
            stop.wanted = True
            worker.join()
        if failures:
            raise failures[0]

    def _check_room(self, ids: Sequence[int], remedy: str) -> None:
        if len(ids) >= self.context:
            raise LessonError(
                f"The prompt is {len(ids)} tokens long and the model reads {self.context}:"
                f" {remedy}."
            )

    def _room(self, prompt: Sequence[int], max_tokens: int) -> int:
        """How many tokens an answer may have: prompt and answer share the context."""
        return min(max_tokens, self.context - len(prompt))

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        longest: int,
        max_tokens: int,
        extra: Mapping[str, Any] | None = None,
        streamer: Any = None,
        stop: _Stop | None = None,
        forced: _Forced | None = None,
        beams: int = 1,
    ) -> Any:
        """Token ids of prompts, padded on the left to the longest, and answers: all its beams'."""
        ids = [[self.pad_id] * (longest - len(p)) + list(p) for p in prompts]
        mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
        device = device_of(self.transformer.get_input_embeddings())
        with torch.inference_mode(), _no_defaults(self.transformer):
            return self.transformer.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                **{name: x.to(device) for name, x in (extra or {}).items()},
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=max_tokens,
                    eos_token_id=None if forced else self.eos_ids or None,
                    pad_token_id=self.pad_id,
                    num_beams=beams,
                    num_return_sequences=beams,
                ),
                stopping_criteria=StoppingCriteriaList([stop] if stop else []),
                logits_processor=LogitsProcessorList([forced] if forced else []),
                streamer=streamer,
            )


@contextmanager
def _no_defaults(transformer: Any) -> Iterator[None]:
    """Hide the model's own generation defaults, which `generate` would add to what it is given."""
    own = transformer.generation_config
    transformer.generation_config = GenerationConfig()
    try:
        yield
    finally:
        transformer.generation_config = own


def after_thoughts(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of what is said once a think block has ended; all, where none begins.

    A block that was opened in the prompt cannot be told before its end, and is not held back.
    """
    held, pieces = "", iter(pieces)
    for piece in pieces:
        held += piece
        begun = held.lstrip()
        if len(begun) < len(THINK) and THINK.startswith(begun):
            continue
        if not begun.startswith(THINK):
            yield held
            yield from pieces
            return
        if THOUGHT in held:
            yield from _without_lead(chain([held.partition(THOUGHT)[2]], pieces))
            return
    if not held.lstrip().startswith(THINK):
        yield held


def _without_lead(pieces: Iterable[str]) -> Iterator[str]:
    """Leave out empty pieces, and the space that some templates put in front of an answer."""
    begun = False
    for piece in pieces:
        text = piece if begun else piece.lstrip()
        if text:
            begun = True
            yield text
