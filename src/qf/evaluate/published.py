"""The figures that others report, of a model at hand: what it finds probable, token by token.

What a user sees is `run`'s; here the model is handed the answer that it is asked about. Three
things stand where the published code has another one, so that facts can be compared as they are
asked and served:

    the prompt        goes through the chat template; the answer is the assistant's turn
    the true object   is the data's; where the data tells none, what the model said before
    neighbours        are the data's prompts beside the fact, whose answers it tells

Knows a model that was taught, and edits; teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from qf.chat import messages, told_by
from qf.errors import LessonError
from qf.evaluate.datasets import Edit
from qf.evaluate.metrics import (
    Chances,
    contains,
    counterfact_scores,
    fluency,
    mean,
    probability,
    token_accuracy,
)
from qf.families import family_of
from qf.lesson import align
from qf.model import Model
from qf.recall import Asked

NAMES = (
    *("ES", "EM", "PS", "PM", "NS", "NM", "S"),
    *("token_efficacy", "token_paraphrase", "token_locality", "fluency"),
)
"""The figures: ROME's, EasyEdit's, and ROME's fluency."""

Said: TypeAlias = tuple[str, str, str]
"""A query, the statement that stands in the prompt ("": none), and an answer to weigh."""


class Heard(NamedTuple):
    """What a model thinks of an answer: its probability, and token by token what it would say."""

    probability: float
    predicted: tuple[int, ...]
    target: tuple[int, ...]


def hear(model: Model, said: Sequence[Said]) -> list[Heard | None]:
    """Weigh answers, each forced token by token; None: it does not fit or cannot be written.

    The end of the turn does not count, as in the published figures.
    """
    found: list[Heard | None] = [None] * len(said)
    asked: list[tuple[int, Asked, tuple[int, ...]]] = []
    for place, (query, statement, answer) in enumerate(said):
        talk = messages(query, told_by(model.system, statement))
        try:
            prompt = model.asked(talk)
            aligned = align(model.tokenizer, talk, answer, None)
        except LessonError:
            continue
        if aligned.learned[:-1] and len(aligned.input_ids) <= model.generator.context:
            # As it is learned: some templates put an empty think block in front of the answer.
            prompt = replace(prompt, ids=aligned.input_ids[: aligned.start])
            asked.append((place, prompt, aligned.learned[:-1]))
    prompts = [prompt for _, prompt, _ in asked]
    recall = model.recalling([p.query for p in prompts])

    def around(batch: slice, longest: int) -> AbstractContextManager[None]:
        assert recall is not None
        family = family_of(model.transformer)
        return recall.acting(model.transformer, family, model.layer, prompts[batch], longest)

    heard = model.generator.forced(
        [p.ids for p in prompts], [a for _, _, a in asked], around if recall else None
    )
    for (place, _, target), tokens in zip(asked, heard, strict=True):
        chance = probability([log for log, _ in tokens])
        found[place] = Heard(chance, tuple(token for _, token in tokens), target)
    return found


@dataclass(frozen=True)
class Untaught:
    """What the model said before: to the facts' questions, and token by token beside them."""

    own: Sequence[str]
    beside: Sequence[Heard | None]


def untaught(model: Model, edits: Sequence[Edit], beside: Sequence[Said]) -> Untaught:
    """Ask a model that was taught nothing; `beside` are queries that nobody teaches."""
    return Untaught(model.ask_many([e.query for e in edits]), hear(model, beside))


def scores(
    model: Model,
    edits: Sequence[Edit],
    beside: Sequence[Said],
    before: Untaught,
    answers: Sequence[str],
    *,
    told: bool = False,
) -> dict[str, float | None]:
    """The figures by NAMES, shares from 0 to 1 and fluency in bits; None where nothing tells.

    `answers` are what the model generates to the facts' questions, whose fluency is told; `told`
    puts each fact's statement before all that is asked about it.

    ES .. S           Meng et al. 2022 (ROME), arXiv:2202.05262, `metrics.counterfact_scores`
    token_efficacy    Wang et al. 2023 (EasyEdit), arXiv:2308.07269, rewrite_acc; on rewordings
    token_paraphrase  rephrase_acc, each fact counting the same; on what is beside the facts
    token_locality    the predictions that are what they were before
    fluency           ROME's GE, of answers as long as the model makes them: ROME has 100 tokens
    """
    weighed: list[Said] = []
    spans = []
    for edit, was in zip(edits, before.own, strict=True):
        statement = edit.instruction if told else ""
        old = edit.old or ("" if contains(was, edit.target) else was)
        near = [(q, a) for q, a in edit.locality if a is not None]
        begin = len(weighed)
        for query in (edit.query, *edit.rewordings):
            weighed += [(query, statement, edit.target), (query, statement, old or edit.target)]
        for query, answer in near:
            weighed += [(query, statement, edit.target), (query, statement, answer)]
        spans.append((begin, len(edit.rewordings), bool(old), len(weighed)))
    heard = hear(model, weighed)
    own, others, neighbours = [], [], []
    exact_own, exact_others = [], []
    for begin, rewordings, comparable, end in spans:
        pairs = list(zip(heard[begin:end:2], heard[begin + 1 : end : 2], strict=True))
        asked, around = pairs[: 1 + rewordings], pairs[1 + rewordings :]
        chances = [_chances(*pair) if comparable else None for pair in asked]
        own.append([c for c in chances[:1] if c])
        others.append([c for c in chances[1:] if c])
        neighbours.append([c for c in (_chances(*pair) for pair in around) if c])
        accuracies = [token_accuracy(new.predicted, new.target) for new, _ in asked[:1] if new]
        exact_own += accuracies
        exact_others.append(
            mean(token_accuracy(new.predicted, new.target) for new, _ in asked[1:] if new)
        )
    found: dict[str, float | None] = counterfact_scores(own, others, neighbours)._asdict()
    now = hear(model, beside)
    return found | {
        "token_efficacy": mean(exact_own),
        "token_paraphrase": mean(share for share in exact_others if share is not None),
        "token_locality": mean(
            token_accuracy(n.predicted, w.predicted)
            for n, w in zip(now, before.beside, strict=True)
            if n and w
        ),
        "fluency": mean(map(fluency, answers)),
    }


def _chances(new: Heard | None, true: Heard | None) -> Chances | None:
    return Chances(new.probability, true.probability) if new and true else None
