"""What the embedded model can do: read, know, admit ignorance, do the two tasks, be taught.

All questions come from `relations` under seeds of their own, so their names are not those of the
training. Answers are greedy and compared as whole texts.
"""

from __future__ import annotations

import csv
import random
import re
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from qf.chat import messages
from qf.cues import words
from qf.demo.curriculum import UNKNOWN, ask
from qf.demo.drawing import any_fact
from qf.demo.relations import WorldFact, known_facts, sentence
from qf.errors import LessonError
from qf.generate import Generator
from qf.loading import Loaded
from qf.model import DEFAULT_SOLVER, MAX_TOKENS, REWORDINGS, Model
from qf.study import DRAFTS, Draft, reword, write_question
from qf.tasks import REWORD_QUESTION, WRITE_QUESTION

Asked = tuple[str, str, tuple[str, ...]]  # query, answer, the answers that count as right


@dataclass(frozen=True)
class Question:
    """A query under a system text, and the answers that count as right.

    The query of a `question` that is to be written is what it is written from. Nobody can tell of a
    made-up noun whether it is a who or a what, and "Which colour", "What colour" or "Name the
    colour" ask for the same: it is right with any of them. Where an answer in any words will do, it
    is right that holds all words of what is `named`.
    """

    system: str
    query: str
    expected: tuple[str, ...]
    question: bool = False
    named: str = ""

    def accepts(self, answer: str) -> bool:
        """Whether the answer is one of the expected ones."""
        if self.named:
            return {*words(self.named)} <= {*words(answer)}
        if self.question:
            return _either(answer) in {_either(e) for e in self.expected}
        return answer in self.expected


def _either(question: str) -> str:
    """The question in lower case, however it asks for a thing.

    >>> _either("Name the owner of Zorvan.") == _either("Who is the owner of Zorvan?")
    True
    """
    plain = re.sub(r"^(name|say|tell me) (the .*)\.$", r"what is \2?", question.casefold())
    return re.sub(r"\b(who|whom|what|which)\b", "who", plain)


@dataclass(frozen=True)
class Result:
    """The share of right answers, and the wrong ones as (query, answer, expected)."""

    share: float
    misses: tuple[tuple[str, str, str], ...]


def _reading(rng: random.Random, statements: Sequence[int], any_words: bool = False) -> Question:
    """A question about one of so many statements."""
    facts = [any_fact(rng) for _ in range(rng.choice(statements))]
    fact = rng.choice(facts)
    told = " ".join(rng.choice(f.statements()) for f in facts)
    named = fact.y if any_words else ""
    return Question(told, ask(rng, fact), (fact.answer(),), named=named)


def _against_knowledge(rng: random.Random) -> Question:
    known = rng.choice(known_facts())
    fact = WorldFact(known.relation, known.x, any_fact(rng, known.relation).y)
    return Question(rng.choice(fact.statements()), ask(rng, fact), (fact.answer(),))


def _knowing(rng: random.Random) -> Question:
    fact = rng.choice(known_facts())
    return Question("", ask(rng, fact), (fact.answer(),))


def _strangers(rng: random.Random, taught: Collection[str] = ()) -> Question:
    """About a subject that nobody told of: none of those that are `taught`, in lower case."""
    while (fact := any_fact(rng)).x.casefold() in taught:
        pass
    return Question("", ask(rng, fact), (UNKNOWN,))


def _writing(rng: random.Random) -> Question:
    """Asking for either end of the statement is right."""
    fact = any_fact(rng)
    statement = rng.choice(fact.statements())
    expected = fact.written()
    subject = sentence(fact.x)
    if statement.startswith(subject + " "):
        expected.append(f"Who{statement.removeprefix(subject)[:-1]}?")
    said = statement.removesuffix(f" {fact.y}.")
    if said != statement and (asked := _NAMED.fullmatch(said)):  # "The owner of Zorvan is Bo."
        expected.append(f"Who {asked[2]} {asked[1]}?")
    return Question("", statement, tuple(expected), question=True)


_NAMED = re.compile(r"(The .*) (is|are|was|were)")


def _rewording(rng: random.Random) -> Question:
    fact = any_fact(rng)
    question = rng.choice(fact.questions())
    others = tuple(q for q in fact.rewordings() if q != question)
    return Question("", question, others, question=True)


SKILLS: dict[str, Callable[[random.Random], Question]] = {
    "reading, one statement": partial(_reading, statements=(1,)),
    "reading, two or three": partial(_reading, statements=(2, 3)),
    "reading, one to three, in any words": partial(_reading, statements=(1, 2, 3), any_words=True),
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
    if skill in _WRITTEN:
        answers = _written(generator, *_WRITTEN[skill], [q.query for q in questions])
    else:
        prompts = [generator.prompt(messages(q.query, q.system)) for q in questions]
        answers = generator.answers(prompts, MAX_TOKENS)
    misses = tuple(
        (q.query, a, " | ".join(q.expected))
        for q, a in zip(questions, answers, strict=True)
        if not q.accepts(a)
    )
    return Result(1 - len(misses) / count, misses)


_WRITTEN: dict[str, tuple[str, Callable[[Draft, str], str]]] = {
    "question writing": (WRITE_QUESTION, write_question),
    "rewording": (REWORD_QUESTION, reword),
}


def _written(
    generator: Generator, task: str, write: Callable[[Draft, str], str], sources: Sequence[str]
) -> list[str]:
    """What is written from each source as `qf` has it written, "" where nothing is found."""
    tasks = [task.format(statement=s, question=s) for s in sources]
    prompts = [generator.prompt(messages(t, "")) for t in tasks]
    drafts = dict(zip(tasks, generator.drafts(prompts, MAX_TOKENS, DRAFTS), strict=True))
    found = []
    for source in sources:
        try:
            found.append(write(lambda asked: [drafts[t] for t in asked], source))
        except LessonError:
            found.append("")
    return found


@dataclass(frozen=True)
class Taught:
    """A fact to teach: a statement, a question with its answer, and other wordings to ask in.

    `subject` is what it is about, where that is known. `beside` are questions about it that the
    statement does not answer.
    """

    statement: str
    question: str
    answer: str
    rewordings: tuple[str, ...]
    subject: str = ""
    beside: tuple[str, ...] = ()


def made_up_facts(count: int, seed: int) -> list[Taught]:
    """Facts of the generator about different subjects, each with two other wordings."""
    rng = random.Random(f"taught/{seed}")
    facts: list[Taught] = []
    subjects: set[str] = set()
    while len(facts) < count:
        fact = any_fact(rng)
        if fact.x in subjects:
            continue
        subjects.add(fact.x)
        question, other = rng.sample(fact.questions(), 2)
        statement = rng.choice(fact.statements())
        others = other, ask(rng, fact)
        facts.append(Taught(statement, question, fact.answer(), others, fact.x))
    return facts


def unseen_facts() -> list[Taught]:
    """The facts of `unseen.csv`, written by hand by somebody who had not seen the generator."""
    asked = {statement: tuple(questions) for statement, *questions in _table("beside.csv")}
    return [
        Taught(s, q, a, tuple(others), beside=asked[s]) for s, q, a, *others in _table("unseen.csv")
    ]


def _table(name: str) -> list[list[str]]:
    text = files("qf.demo").joinpath(name).read_text(encoding="utf-8")
    return list(csv.reader(text.splitlines()[1:], delimiter="|"))


def measure_teaching(
    loaded: Loaded,
    facts: Sequence[Taught],
    *,
    layer: int | None = None,
    solver: str = DEFAULT_SOLVER,
    rewordings: int = REWORDINGS,
    calibrate: bool = True,
    own_answers: bool = False,
    around: int = 20,
    seed: int = 1,
) -> dict[str, Result]:
    """Teach each fact alone to an empty memory, and ask for it and around it.

    With `own_answers` the model learns the answer that it gives itself, and one is right that
    `tells` what was asked for; else the fact's answer is learned and wanted word for word.
    `around` questions, half about what is known and half about strangers, are asked before and
    after; those answered rightly before count. Read: asked with the statement in the prompt.
    Beside: what is asked about the same subject, and was not told, is answered as before.
    """
    rng = random.Random(f"around/{seed}")
    read: list[Asked] = []
    same: list[Asked] = []
    other: list[Asked] = []
    known: list[Asked] = []
    strangers: list[Asked] = []
    aside: list[Asked] = []
    with tempfile.TemporaryDirectory() as scratch:
        model = Model(
            loaded, Path(scratch) / "memory", layer=layer, solver=solver, calibrate=calibrate
        )
        for fact in facts:
            beside = [_knowing(rng) for _ in range(around // 2)]
            beside += [_strangers(rng, {fact.subject.casefold()}) for _ in range(around // 2)]
            queries = [*fact.beside, *(q.query for q in beside)]
            was = model.ask_many(
                [fact.question, *queries], [fact.statement, *([""] * len(queries))]
            )
            answer = None if own_answers else fact.answer
            model.learn(fact.statement, fact.question, answer, rewordings=rewordings)
            now = model.ask_many([fact.question, *fact.rewordings, *queries])
            model.forget_all()
            read.append(_asked(fact, fact.question, was[0], own_answers))
            same.append(_asked(fact, fact.question, now[0], own_answers))
            others = zip(fact.rewordings, now[1:], strict=False)
            other += [_asked(fact, q, a, own_answers) for q, a in others]
            after = now[1 + len(fact.rewordings) :]
            own = len(fact.beside)
            asides = zip(fact.beside, after[:own], was[1 : own + 1], strict=True)
            aside += [(q, a, (first,)) for q, a, first in asides]
            for question, first, second in zip(beside, was[own + 1 :], after[own:], strict=True):
                if first in question.expected:
                    kept = strangers if question.expected == (UNKNOWN,) else known
                    kept.append((question.query, second, question.expected))
        model.close()
    return {
        "read": _result(read),
        "taught, same words": _result(same),
        "taught, other words": _result(other),
        "known before, still right": _result(known),
        "strangers, still unknown": _result(strangers),
        **({"beside, as before": _result(aside)} if aside else {}),
    }


EARLIER = (
    {"role": "user", "content": "Who painted the Mona Lisa?"},
    {"role": "assistant", "content": "The Mona Lisa was painted by Leonardo da Vinci."},
)
ELSEWHERE = "The password of the red server is Kolibri7."
"""Surroundings in which facts are asked for that were taught without them."""


def measure_together(
    loaded: Loaded,
    facts: Sequence[Taught],
    *,
    layer: int | None = None,
    solver: str = DEFAULT_SOLVER,
    rewordings: int = REWORDINGS,
    calibrate: bool = True,
    consolidate: bool = False,
    ordinary: Sequence[str] = (),
    around: int = 300,
    asked: int | None = None,
    seed: int = 1,
) -> dict[str, Result]:
    """Teach all facts to one memory, then ask for each and for `around` other things.

    `asked` of them, spread over all, are asked for where that is fewer. With `consolidate` they
    move from behind the gate into W before that; how many did is told. The model is calibrated with
    the `ordinary` questions where there are any.
    """
    rng = random.Random(f"around/{seed}")
    taught = {f.subject.casefold() for f in facts}
    beside = [_knowing(rng) for _ in range(around // 2)]
    beside += [_strangers(rng, taught) for _ in range(around // 2)]
    queries = [q.query for q in beside]
    with tempfile.TemporaryDirectory() as scratch:
        model = Model(
            loaded, Path(scratch) / "memory", layer=layer, solver=solver, calibrate=calibrate
        )
        if ordinary:
            model.calibrate(ordinary, into=Path(scratch))
        was = model.ask_many(queries)
        wordings = model.rewordings(
            [f.statement for f in facts], [f.question for f in facts], rewordings
        )
        for fact, others in zip(facts, wordings, strict=True):
            model.learn(fact.statement, fact.question, fact.answer, rewordings=others, verify=False)
        moved = model.consolidate().consolidated if consolidate else []
        among = len(facts)
        facts = facts[:: max(1, len(facts) // asked)] if asked else facts
        questions = [f.question for f in facts]
        same = model.ask_many(questions)
        in_conversation = model.ask_many(questions, earlier=EARLIER)
        elsewhere = model.ask_many(questions, [ELSEWHERE] * len(facts))
        reworded = [(q, f.answer) for f in facts for q in f.rewordings]
        other = [
            (q, a, (wanted,))
            for (q, wanted), a in zip(
                reworded, model.ask_many([q for q, _ in reworded]), strict=True
            )
        ]
        now = model.ask_many(queries)
        model.close()
    kept = [
        (question.query, second, question.expected)
        for question, first, second in zip(beside, was, now, strict=True)
        if first in question.expected
    ]

    def right(answers: Sequence[str]) -> Result:
        return _result([(f.question, a, (f.answer,)) for f, a in zip(facts, answers, strict=True)])

    in_weights = {"in the weights": Result(len(moved) / among, ())} if consolidate else {}
    return {
        **in_weights,
        "same words": right(same),
        "other words": _result(other),
        "in a conversation": right(in_conversation),
        "under another prompt": right(elsewhere),
        "known before, still right": _result([k for k in kept if k[2] != (UNKNOWN,)]),
        "strangers, still unknown": _result([k for k in kept if k[2] == (UNKNOWN,)]),
    }


def tells(fact: Taught, answer: str) -> bool:
    """Whether an answer holds what the fact's does: each word of the statement that was asked for.

    >>> who = Taught("Qi started Oxinnovate.", "Who started Oxinnovate?", "It is Qi.", ())
    >>> tells(who, "Oxinnovate was started by Qi."), tells(who, "I do not know.")
    (True, False)
    """
    told = {*words(fact.statement)} & {*words(fact.answer)} - {*words(fact.question), *_LITTLE}
    return bool(told) and told <= {*words(answer)}


_LITTLE = (
    "a an the is are was were of in on at by to for with and your you my it they he she".split()
)


def _asked(fact: Taught, query: str, answer: str, any_form: bool) -> Asked:
    told = any_form and tells(fact, answer)
    return query, answer, (fact.answer, answer) if told else (fact.answer,)


def _result(answered: Sequence[Asked]) -> Result:
    misses = tuple((q, a, " | ".join(e)) for q, a, e in answered if a not in e)
    return Result(1 - len(misses) / max(1, len(answered)), misses)
