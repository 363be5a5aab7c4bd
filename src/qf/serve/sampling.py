"""From the logits of one position to the next token: greedy, or drawn from the likeliest.

Knows tensors, no model. Temperature and top_p are those of Holtzman et al. 2020 (nucleus sampling).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOP = 20  # alternatives that a request can ask for at each position


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. `temperature` 0 is greedy; `top_p` keeps the likeliest that sum to it.

    `logprobs` is how many alternatives to report beside each token; None reports nothing.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    logprobs: int | None = None


@dataclass(frozen=True)
class Token:
    """A token of a reply, its log-probability, the likeliest ones in its place, and where it is."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    start: int = 0  # in the reply's text


class Sampler:
    """Draws the tokens of one reply; with a seed, the same ones from the same logits."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % (1 << 63))

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is all that is asked for."""
        return self.sampling.temperature == 0 and self.sampling.logprobs is None

    def token(self, logits: Tensor) -> Token:
        """The next token, of logits (V,)."""
        logits = logits.float().cpu()
        chosen = self._draw(logits) if self.sampling.temperature > 0 else int(logits.argmax())
        if self.sampling.logprobs is None:
            return Token(chosen)
        logprobs = logits.log_softmax(0)
        values, ids = logprobs.topk(min(self.sampling.logprobs, len(logprobs)))
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return Token(chosen, float(logprobs[chosen]), top)

    def _draw(self, logits: Tensor) -> int:
        probability = (logits.double() / self.sampling.temperature).softmax(0)
        if self.sampling.top_p < 1:
            p, order = probability.sort(descending=True, stable=True)
            before = p.cumsum(0) - p  # the first token stays, however small top_p is
            p[(before >= self.sampling.top_p).logical_and(before > 0)] = 0
            return int(order[p.multinomial(1, generator=self._random)])
        return int(probability.multinomial(1, generator=self._random))
