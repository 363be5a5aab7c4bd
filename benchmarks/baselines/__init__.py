"""What qf is compared with: other ways to teach a model facts, behind one face.

    finetune   AdamW on the same matrix W
    lora       a low-rank adapter of W, through PEFT
    rome       Meng et al. 2022, arXiv:2202.05262: one fact at a time, exactly, W changing least
    memit      Meng et al. 2023, arXiv:2210.07229: all facts at once, in one layer or several
    grace      Hartvigsen et al. 2023, arXiv:2211.11031: a codebook beside the weights
    retrieval  the statement that matches the question best, by BM25, in the prompt

Each is written from its paper's equations. This file knows none of them.

`rome` and `memit` store an answer token by token, and not at the subject alone as in the papers: on
the embedded model, whose answers are sentences, one vector does not hold a whole answer, however
long it is sought. `targets` tells more of it, and `benchmarks/editors.py` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from qf.chat import Message, messages
from qf.errors import ModelError
from qf.families import family_of
from qf.generate import Generator
from qf.lesson import AlignedTokens, align
from qf.loading import Loaded

BATCH = 32

METHODS = {
    "finetune": "FineTune",
    "lora": "Lora",
    "rome": "Rome",
    "memit": "Memit",
    "grace": "Grace",
    "retrieval": "Retrieval",
}


def method(name: str) -> type[Baseline]:
    """The baseline of a name in METHODS; its module is imported only then.

    >>> method("rome").__name__
    'Rome'
    """
    found = getattr(import_module(f"benchmarks.baselines.{name}"), METHODS[name])
    assert issubclass(found, Baseline)
    return found


@dataclass(frozen=True)
class Taught:
    """A fact as a statement, and as a question with its answer; what it is about, if known."""

    statement: str
    query: str
    answer: str
    subject: str | None = None


class Baseline:
    """Teaches facts to a model in layer `layer`; what was taught adds up until `undo`.

    `system` is the prompt that the model is served with, as for `qf.lesson.pair`. Two baselines
    on one model must not be at work at the same time.
    """

    def __init__(
        self, loaded: Loaded, layer: int, *, system: str | None = None, max_tokens: int = 64
    ) -> None:
        self.model, self.tokenizer = loaded.transformer, loaded.tokenizer
        self.family = family_of(self.model)
        self.layer, self.system, self.max_tokens = layer, system, max_tokens
        self.generator = Generator(self.model, self.tokenizer)
        self._before: dict[nn.Module, Tensor] = {}

    @classmethod
    def own_layer(cls, layers: int, taught: int) -> int:
        """The layer to use in a model of `layers` layers where qf teaches layer `taught`."""
        return taught

    def teach(self, facts: Sequence[Taught]) -> None:
        """Teach facts, in this order where the method takes them one after another."""
        raise NotImplementedError

    def undo(self) -> None:
        """Bring the model back to what it was, bit for bit."""
        for module, weight in self._before.items():
            _write(module, weight)
        self._before.clear()

    def ask_many(
        self,
        queries: Sequence[str],
        instructions: Sequence[str] | None = None,
        *,
        earlier: Sequence[Mapping[str, str]] = (),
    ) -> list[str]:
        """The model's greedy answers, each as if asked alone; as `qf.model.Model.ask_many`."""
        told = instructions or [""] * len(queries)
        talks = [self.conversation(q, i, earlier) for q, i in zip(queries, told, strict=True)]
        asked = [self.generator.prompt_with_span(talk) for talk in talks]

        def around(batch: slice, longest: int) -> AbstractContextManager[None]:
            return self.acting([longest - len(ids) + to - 1 for ids, (_, to) in asked[batch]])

        return self.generator.answers([ids for ids, _ in asked], self.max_tokens, around)

    def probabilities(self, asked: Sequence[tuple[str, str]]) -> list[float]:
        """The probability of each answer to its query: the geometric mean of its tokens'."""
        from benchmarks.baselines.descent import losses

        found: list[float] = []
        for first in range(0, len(asked), BATCH):
            batch = asked[first : first + BATCH]
            said = [self.aligned(query, answer) for query, answer in batch]
            ends = [
                self.generator.prompt_with_span(self.conversation(query))[1][1] - 1
                for query, _ in batch
            ]
            with torch.no_grad(), self.acting(ends):
                found += (-losses(self.model, said, self.generator.pad_id)).exp().tolist()
        return found

    def conversation(
        self, query: str, instruction: str = "", earlier: Sequence[Mapping[str, str]] = ()
    ) -> list[Message]:
        """How a query is put to the model, with the instruction behind the serving prompt."""
        told = "\n".join(filter(None, (self.system, instruction)))
        return messages(query, told if instruction else self.system, earlier=earlier)

    def acting(self, ends: Sequence[int]) -> AbstractContextManager[None]:
        """What holds while a batch is answered whose queries end at these positions."""
        return nullcontext()

    def aligned(self, query: str, answer: str) -> AlignedTokens:
        """The query with its answer and an end-of-turn token, which are what is learned."""
        return align(self.tokenizer, self.conversation(query), answer, None)

    def projection(self, layer: int | None = None) -> nn.Linear:
        """The module that holds W, of the taught layer or another."""
        index = self.layer if layer is None else layer
        module: Any = self.family.projection(self.family.layer(self.model, index))
        if why := self.family.unwritable(self.model, module):
            raise ModelError(f"The weights are {why}: load them unquantised and in one place.")
        return module

    def change(self, module: nn.Linear, weight: Tensor) -> None:
        """Give `module` this weight; `undo` takes it back."""
        if module not in self._before:
            self._before[module] = module.weight.detach().clone()
        _write(module, weight)


def _write(module: nn.Module, weight: Tensor) -> None:
    assert isinstance(module, nn.Linear)
    with torch.no_grad():
        module.weight.copy_(weight)
