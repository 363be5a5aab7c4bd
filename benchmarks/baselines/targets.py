"""What ROME and MEMIT share: where a fact is stored, by which key, and what to store there.

    place  where a part of the answer begins: the token before it
    k      (D,)    key: the input u of W at the place, a mean over contexts     ROME Eq. 3
    δ      (N,)    added to the layer's output at the place, makes the part     ROME Eq. 4
    C      (D, D)  second moment of keys in ordinary text

The papers have one place, the subject's last token, for an answer of few tokens (here:
`chunk=None`). An answer that is a sentence with a new name in it does not fit into one vector; then
each part gets its own (Jiang et al. 2025, "AnyEdit", arXiv:2502.05628), by default each token.
What fits where, without storing anything:

    python benchmarks/editors.py rome --facts 8 --set chunk=None layer=4 steps=100 --targets
    python benchmarks/editors.py rome --facts 8 --set chunk=1 --targets

The papers put random text in front of a prompt so that key and target hold in any context. To a
chat model an earlier turn of the conversation does the same. Where they take C from Wikipedia,
here it comes from everyday questions with the model's own answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from benchmarks.baselines import Baseline, Taught
from benchmarks.baselines.descent import STOP, frozen, losses, output_of, states
from qf.chat import Message, messages, prompt_with_span
from qf.lesson import AlignedTokens, align
from qf.loading import Loaded
from qf.method.calibrate import everyday
from qf.method.passes import record

ANSWER = 24  # tokens of ordinary answers
TOGETHER = 16  # sequences in one forward pass
FLOOR = 1e-2  # added to C's diagonal, as a part of its mean: few texts leave directions unseen


@dataclass(frozen=True)
class Situation:
    """A fact's query in one context, with its answer, and the places where it is changed."""

    tokens: AlignedTokens
    places: tuple[int, ...]


class Editor(Baseline):
    """Knows a model's ordinary traffic, and finds keys and targets of facts."""

    def __init__(
        self,
        loaded: Loaded,
        layer: int,
        *,
        questions: Sequence[str] | None = None,
        chunk: int | None = 1,
        contexts: int = 2,
        steps: int = 25,
        rate: float = 0.2,
        clamp: float = 4.0,
        decay: float = 0.5,
        drift: float = 0.0625,
        **options: Any,
    ) -> None:
        """Take ordinary `questions` (None: the built-in ones) and how targets are found.

        `chunk`: so many tokens of an answer are left to one place (None: all, to the subject's).
        Adam takes up to `steps` steps of `rate` times the size of the layer's outputs; δ grows to
        `clamp` times their length, `decay` draws it to zero, and `drift` weighs what else the
        model says of the subject.
        """
        super().__init__(loaded, layer, **options)
        self.questions = everyday() if questions is None else list(questions)
        self.chunk, self.contexts = chunk, contexts
        self.steps, self.rate, self.clamp = steps, rate, clamp
        self.decay, self.drift = decay, drift
        self._ordinary: list[tuple[str, str]] = []
        self._moments: dict[int, Tensor] = {}

    @classmethod
    def own_layer(cls, layers: int, taught: int) -> int:
        """Below the last layer: from there on, attention carries a change to the later tokens."""
        return max(0, min(taught, layers - 2))

    def prepare(self, layers: Sequence[int]) -> None:
        """Measure C in these layers, once and with the weights as they are."""
        if not self._ordinary:
            room, self.max_tokens = self.max_tokens, ANSWER
            answers = self.ask_many(self.questions)
            self.max_tokens = room
            self._ordinary = [(q, a) for q, a in zip(self.questions, answers, strict=True) if a]
        for layer in layers:
            if layer not in self._moments:
                self._moments[layer] = self._second_moment(layer)

    def moment(self, layer: int) -> Tensor:
        """C of a layer: (D, D), float64."""
        return self._moments[layer]

    def situations(self, fact: Taught) -> list[Situation]:
        """The fact's query alone, then after each of some ordinary turns."""
        turns: list[list[Message]] = [[]]
        turns += [messages(q, answer=a) for q, a in self._ordinary[: self.contexts]]
        found = []
        for earlier in turns:
            asked = messages(fact.query, self.system, earlier=earlier)
            tokens = align(self.tokenizer, asked, fact.answer, None)
            places = (
                tuple(tokens.positions[:: self.chunk])
                if self.chunk
                else (self._place(asked, fact.subject),)
            )
            found.append(Situation(tokens, places))
        return found

    def keys(self, situations: Sequence[Situation], layer: int) -> Tensor:
        """k: (P, D) in float64, the mean of u over the contexts. ROME Eq. 3."""
        return torch.stack([self._at(s, layer)[0] for s in situations]).mean(0)

    def outputs(self, situation: Situation, layer: int) -> Tensor:
        """h: (P, N) in float64, the layer's output at the places."""
        return self._at(situation, layer)[1]

    def deltas(self, fact: Taught, situations: Sequence[Situation], layer: int) -> Tensor:
        """δ: (P, N) by gradient descent on ROME Eq. 4, which MEMIT takes over (without its b).

            1/J Σ_j -log P_δ[answer | context j, query] + drift · KL(P_δ[x | p'] ‖ P[x | p'])
            + decay · ‖δ‖ / ‖h‖²        (as in ROME's code)

        P_δ is the model with δ added at the places, all of them found together. p' is
        "{subject} is a", so that what the subject is does not change; where the place is not the
        subject's there is no such term.
        """
        module, pad = self.projection(layer), self.generator.pad_id
        tokens, P = [s.tokens for s in situations], len(situations[0].places)
        lengths = self.outputs(situations[0], layer).norm(dim=1, keepdim=True).float()
        size, most = lengths.mean().item() / module.out_features**0.5, self.clamp * lengths
        δ = torch.zeros(P, module.out_features, device=module.weight.device, requires_grad=True)
        optimizer = torch.optim.Adam([δ], lr=self.rate * size)

        def added_at(where: Sequence[Sequence[int]]) -> Any:
            rows = torch.arange(len(where)).repeat_interleave(P)
            at = rows, torch.tensor(where).flatten()

            def add(_: Tensor, output: Tensor) -> Tensor:
                more = δ.to(output.dtype).repeat(len(where), 1)
                return output.index_put(at, more, accumulate=True)

            return output_of(module, add)

        essence: list[Message] | None = None
        if fact.subject and self.drift and not self.chunk:
            essence = messages(f"{fact.subject} is a", self.system)
            prompt = prompt_with_span(self.tokenizer, essence)[0]
            subject = self._place(essence, fact.subject)
            with torch.no_grad():
                before = self._next(prompt)
        with frozen(self.model):
            for _ in range(self.steps):
                with added_at([s.places for s in situations]):
                    loss = losses(self.model, tokens, pad).mean()
                if loss.item() < STOP:
                    break
                if essence:
                    with added_at([[subject]]):
                        after = self._next(prompt)
                    loss = loss + self.drift * (after.exp() * (after - before)).sum()
                loss = loss + self.decay * (δ.norm(dim=1, keepdim=True) / lengths.square()).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    δ.mul_((most / δ.norm(dim=1, keepdim=True)).clamp(max=1.0))
        return δ.detach().double()

    def _next(self, prompt: Sequence[int]) -> Tensor:
        """The log probabilities (vocabulary,) of what follows a prompt."""
        x = states(self.model, [prompt], self.generator.pad_id)[0, -1]
        return log_softmax(self.model.get_output_embeddings()(x).float(), 0)

    def _place(self, asked: Sequence[Message], subject: str | None) -> int:
        """The position of the subject's last token in the last query, else of the query's."""
        ids, (begin, end) = prompt_with_span(self.tokenizer, asked)
        if subject:
            for last in range(begin, end):
                if subject.casefold() in self.tokenizer.decode(ids[begin : last + 1]).casefold():
                    return last
        return end - 1

    def _second_moment(self, layer: int) -> Tensor:
        """C = 1/m Σ u uᵀ over the tokens of ordinary questions and answers, and FLOOR."""
        D = self.projection(layer).in_features
        total, count = torch.zeros(D, D, dtype=torch.float64), 0
        sequences = []
        for query, answer in self._ordinary:
            asked = messages(query, self.system)
            first = max(1, prompt_with_span(self.tokenizer, asked)[1][0])
            ids = align(self.tokenizer, asked, answer, None).input_ids
            sequences.append(AlignedTokens(ids, first, (1.0,) * (len(ids) - first)))
        for start in range(0, len(sequences), TOGETHER):
            for seen in self._record(layer, sequences[start : start + TOGETHER]):
                u = seen.u.cpu().double()
                total += u.T @ u
                count += len(u)
        C = total / max(1, count)
        C.diagonal().add_(FLOOR * C.diagonal().mean() or 1.0)
        return C

    def _at(self, situation: Situation, layer: int) -> tuple[Tensor, Tensor]:
        """u: (P, D) and h: (P, N) at the places, in float64."""
        ids, (first, last) = situation.tokens.input_ids, (situation.places[0], situation.places[-1])
        weights = (1.0,) * (last + 1 - first)
        through = AlignedTokens((*ids[: last + 1], ids[last]), first + 1, weights)
        (seen,) = self._record(layer, [through])
        at = [place - first for place in situation.places]
        return seen.u[at].double(), seen.y[at]

    def _record(self, layer: int, sequences: Sequence[AlignedTokens]) -> Any:
        pad = self.generator.pad_id
        return record(self.model, self.family, layer, sequences, pad_id=pad)
