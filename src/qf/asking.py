"""Asking a model as it is served: prompts from queries, answers by whatever acts in it now.

Knows the system prompts, turns, tools and pictures that go with a query. Learns and keeps nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Any, Literal

from qf.acting import Acting
from qf.chat import ChatOptions, Shown, messages, told_by, without_thoughts
from qf.cues import words
from qf.errors import LessonError, ModelError
from qf.families import Family
from qf.generate import Around, Generator, after_thoughts
from qf.loading import Loaded
from qf.memory import Fact
from qf.picture import Picture
from qf.recall import Asked
from qf.study import DRAFTS, Ask

MAX_TOKENS = 128
Image = str | os.PathLike[str] | Any | None
"""A picture: the name of its file, or a `PIL.Image`."""
TURNS = (
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hello! How can I help you?"},
)
"""The conversation in whose middle a gated fact is asked when it is verified."""


class Served(Enum):
    """Stands for the system prompt that a model is served with, the first where it has several."""

    first = "first"


SERVED: Literal[Served.first] = Served.first


@dataclass(frozen=True)
class Place:
    """Where a question stands when the model is served: a system prompt and earlier turns."""

    system: str | None
    earlier: tuple[Mapping[str, str], ...] = ()

    @property
    def told(self) -> str:
        """For people to read: under which prompt, or in what conversation."""
        if self.earlier:
            return "in the middle of a conversation"
        if self.system is None:
            return "under the template's own prompt"
        return f"under the prompt {self.system!r}" if self.system else "without a prompt"


@dataclass
class Asking:
    """One model, how it is served, and what acts in it."""

    loaded: Loaded
    family: Family
    layer: int
    generator: Generator
    systems: tuple[str | None, ...]
    turns: Sequence[Mapping[str, str]] | None
    options: ChatOptions
    acting: Acting

    @property
    def system(self) -> str | None:
        """The system prompt that is served most."""
        return self.systems[0]

    def served(self, system: str | Served | None) -> str | None:
        """The system prompt that is meant."""
        return self.system if isinstance(system, Served) else system

    def places(self) -> list[Place]:
        """Where a question stands as the model is served, the most usual place first."""
        places = [Place(system) for system in self.systems]
        return places + ([Place(self.system, (*self.turns,))] if self.turns else [])

    def picture(self, image: Image) -> Shown | None:
        """The picture that is to be shown, if one is."""
        if image is None:
            return None
        if self.loaded.processor is None:
            raise ModelError(
                self.loaded.pictureless
                or f"The model {self.loaded.name!r} is given with no processor of pictures: choose"
                " a vision-language model, such as Qwen/Qwen2.5-VL-3B-Instruct."
            )
        return Picture.of(image, self.loaded.processor)

    # Prompts

    def asked(
        self,
        query: str,
        system: str | None,
        instruction: str = "",
        earlier: Sequence[Mapping[str, str]] = (),
        options: ChatOptions | None = None,
        image: Shown | None = None,
    ) -> Asked:
        """The prompt of a query; raises LessonError: an empty query, or one without room."""
        if not query.strip():
            raise LessonError("The query is empty: write what to ask.")
        told, how = told_by(system, instruction), options or self.options
        if image is not None:
            shown = messages(query, told, earlier=earlier, image=image.name)
            ids, span, extra = self.generator.prompt_with_image(shown, image, how)
            return Asked(ids, query, span, extra)
        conversation = messages(query, told, earlier=earlier)
        ids, span = self.generator.prompt_with_span(conversation, how)
        return Asked(ids, query, span)

    def conversation(self, conversation: Sequence[Mapping[str, str]]) -> Asked:
        """The prompt of a conversation, which may begin with a system turn of its own."""
        system, turns = self.system, list(conversation)
        if turns and turns[0]["role"] == "system":
            system = turns.pop(0)["content"]
        return self.asked(turns[-1]["content"], system, earlier=turns[:-1])

    def text(self, text: str | Sequence[int]) -> Asked:
        """A text or its tokens as they are, without the chat template; all of it is the query."""
        if isinstance(text, str):
            ids, query = tuple(self.loaded.tokenizer(text)["input_ids"]), text
        else:
            ids, query = tuple(text), self.loaded.tokenizer.decode(text)
        if not ids or len(ids) >= self.generator.context:
            raise LessonError(
                f"The text is {len(ids)} tokens long and the model reads 1 to"
                f" {self.generator.context - 1}: change it."
            )
        return Asked(ids, query, (0, len(ids)))

    # Answers

    def answered(
        self, prompts: Sequence[Asked], max_tokens: int, thoughts: bool = False
    ) -> list[str]:
        """The answers to prompts, in one batch where no pictures are shown."""
        if any(p.extra for p in prompts):  # pictures differ in size: each prompt by itself
            answers = [
                self.generator.answers([p.ids], max_tokens, self._around([p]), p.extra)[0]
                for p in prompts
            ]
            return answers if thoughts else [without_thoughts(a) for a in answers]
        around = self._around(prompts)
        answers = self.generator.answers([p.ids for p in prompts], max_tokens, around)
        return answers if thoughts else [without_thoughts(a) for a in answers]

    def pieces(self, prompt: Asked, max_tokens: int, thoughts: bool) -> Iterator[str]:
        """The answer to one prompt, piece by piece."""
        around = self._around([prompt])
        pieces = self.generator.stream(prompt.ids, max_tokens, around, prompt.extra)
        with closing(pieces):
            yield from pieces if thoughts else after_thoughts(pieces)

    def answers(self, queries: Sequence[str], places: Sequence[Place] | None = None) -> list[str]:
        """What is answered by what acts now, each query in its place, or in the most usual one."""
        where = places or [Place(self.system)] * len(queries)
        prompts = [
            self.asked(q, place.system, earlier=place.earlier)
            for q, place in zip(queries, where, strict=True)
        ]
        return self.answered(prompts, MAX_TOKENS)

    def base(
        self,
        queries: Sequence[str],
        instructions: Sequence[str] | None = None,
        max_tokens: int = MAX_TOKENS,
        image: Shown | None = None,
    ) -> list[str]:
        """What the base weights answer by themselves, at once: nobody waits for its thoughts."""
        told = instructions or [""] * len(queries)
        options = replace(self.options, thinking=False)
        prompts = [
            self.asked(q, self.system, i, options=options, image=image)
            for q, i in zip(queries, told, strict=True)
        ]
        with self.acting.base():
            return self.answered(prompts, max_tokens)

    def drafts(self, tasks: Sequence[str]) -> list[list[str]]:
        """What the base weights write for tasks, several texts each, the most probable first."""
        options = replace(self.options, thinking=False)
        prompts = [self.asked(t, self.system, options=options).ids for t in tasks]
        with self.acting.base():
            written = self.generator.drafts(prompts, MAX_TOKENS, DRAFTS)
        return [[without_thoughts(text) for text in texts] for texts in written]

    def base_showing(self, image: Shown | None) -> Ask:
        """How to ask the base weights, with a picture if there is one."""
        return self.base if image is None else partial(self.base, image=image)

    def holding(self, ids: Sequence[str], facts: Mapping[str, Fact]) -> list[str]:
        """Those of the facts that are answered as when they were learned, by what acts now."""
        asked = [(k, place) for k in ids for place in self.places()]
        answers = self.answers([facts[k].query for k, _ in asked], [p for _, p in asked])
        lost = {
            k
            for (k, _), a in zip(asked, answers, strict=True)
            if words(a) != words(facts[k].after or facts[k].answer)
        }
        return [k for k in ids if k not in lost]

    def _around(self, prompts: Sequence[Asked]) -> Around | None:
        """What lets the gated facts act while the prompts are answered."""
        recall = self.acting.recalling()
        if not recall:
            return None
        recall.prepare(p.query for p in prompts)

        def recalled(batch: slice, longest: int) -> AbstractContextManager[None]:
            where = self.loaded.transformer, self.family, self.layer
            return recall.acting(*where, prompts[batch], longest)

        return recalled
