"""What the embedded model can do: read, know, admit ignorance, do the two tasks, be taught.

All questions come from `relations` under seeds of their own, so their names are not those of the
training. Answers are greedy and compared as whole texts.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qf.demo.curriculum import UNKNOWN, ask
from qf.demo.relations import KNOWN, WorldFact, any_fact, known_facts
from qf.generate import Generator
from qf.lesson import messages
from qf.loading import Loaded
from qf.model import Model
from qf.tasks import REWORD_QUESTION, WRITE_QUESTION


@dataclass(frozen=True)
class Question:
    """A query under a system text, and the answers that count as right."""

    system: str
    query: str
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """The share of right answers, and the wrong ones as (query, answer, expected)."""

    share: float
    misses: tuple[tuple[str, str, str], ...]


def _one_statement(rng: random.Random) -> Question:
    fact = any_fact(rng)
    return Question(rng.choice(fact.statements()), ask(rng, fact), (fact.answer(),))


def _several_statements(rng: random.Random) -> Question:
    facts = [any_fact(rng) for _ in range(rng.choice((2, 3)))]
    fact = rng.choice(facts)
    told = " ".join(rng.choice(f.statements()) for f in facts)
    return Question(told, ask(rng, fact), (fact.answer(),))


def _against_knowledge(rng: random.Random) -> Question:
    known = rng.choice(known_facts())
    fact = WorldFact(known.relation, known.x, any_fact(rng, known.relation).y)
    return Question(rng.choice(fact.statements()), ask(rng, fact), (fact.answer(),))


def _knowing(rng: random.Random) -> Question:
    fact = rng.choice(known_facts())
    return Question("", ask(rng, fact), (fact.answer(),))


def _strangers(rng: random.Random) -> Question:
    return Question("", ask(rng, any_fact(rng)), (UNKNOWN,))


def _writing(rng: random.Random) -> Question:
    fact = any_fact(rng)
    query = WRITE_QUESTION.format(statement=rng.choice(fact.statements()))
    return Question("", query, tuple(fact.questions()))


def _rewording(rng: random.Random) -> Question:
    fact = any_fact(rng)
    question = rng.choice(fact.questions())
    others = tuple(q for q in fact.questions() if q != question)
    return Question("", REWORD_QUESTION.format(question=question), others)


SKILLS: dict[str, Callable[[random.Random], Question]] = {
    "reading, one statement": _one_statement,
    "reading, two or three": _several_statements,
    "reading against what is known": _against_knowledge,
    "knowing": _knowing,
    '"I do not know."': _strangers,
    "question writing": _writing,
    "rewording": _rewording,
}


def measure_skills(loaded: Loaded, skill: str, count: int, seed: int) -> Result:
    """Ask `count` questions of one of SKILLS, in batches, without a memory."""
    rng = random.Random(f"held out/{skill}/{seed}")
    questions = [SKILLS[skill](rng) for _ in range(count)]
    generator = Generator(loaded.transformer, loaded.tokenizer)
    prompts = [generator.prompt(messages(q.query, q.system)) for q in questions]
    answers = generator.answers(prompts, max_tokens=96)
    return _result(
        [(q.query, a, q.expected) for q, a in zip(questions, answers, strict=True)],
    )


def measure_teaching(
    loaded: Loaded,
    count: int,
    seed: int,
    *,
    layer: int | None = None,
    solver: str = "joint",
    asked: int = 20,
) -> dict[str, Result]:
    """Teach `count` made-up facts, each alone to an empty memory, and ask around each.

    Same words: the taught question. Other words: two further wordings of it. Known before and
    strangers: `asked` questions in all per fact, half of each; those answered rightly before count.
    """
    rng = random.Random(f"taught/{seed}")
    same, other, known, strangers = [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        model = Model(loaded, Path(scratch) / "memory", layer=layer, solver=solver)
        for _ in range(count):
            fact = any_fact(rng)
            questions = rng.sample(fact.questions(), 2)
            wordings = [questions[1], ask(rng, fact)]
            around = [_knowing(rng) for _ in range(asked // 2)]
            around += [_strangers(rng) for _ in range(asked // 2)]
            queries = [q.query for q in around]
            before = model.ask_many(queries)
            model.learn(rng.choice(fact.statements()), questions[0], fact.answer(), verify=False)
            after = model.ask_many([questions[0], *wordings, *queries])
            model.forget_all()
            same.append((questions[0], after[0], (fact.answer(),)))
            other += [(w, a, (fact.answer(),)) for w, a in zip(wordings, after[1:3], strict=True)]
            for question, was, now in zip(around, before, after[3:], strict=True):
                if was in question.expected:
                    kept = strangers if question.expected == (UNKNOWN,) else known
                    kept.append((question.query, now, question.expected))
        model.close()
    return {
        "taught, same words": _result(same),
        "taught, other words": _result(other),
        "known before, still right": _result(known),
        "strangers, still unknown": _result(strangers),
    }


def _result(answered: Sequence[tuple[str, str, tuple[str, ...]]]) -> Result:
    misses = tuple((q, a, " | ".join(e)) for q, a, e in answered if a not in e)
    return Result(1 - len(misses) / max(1, len(answered)), misses)


def relations() -> int:
    """The number of relations of the real world."""
    return len(KNOWN)
