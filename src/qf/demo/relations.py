"""How facts are said and asked: a relation, a fact under it, and sixteen relations of the real world.

`KNOWN` holds the relations of `facts.csv`; `qf.demo.drawing` draws others. Wordings use {x} for the
subject and {y} for the object.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Relation:
    """One relation: its kinds of names, its wordings, and the one wording of its answer.

    `subject` and `object` are kinds, or texts with kinds in braces.
    `indirect` are questions as they stand after "Can you tell me". `written` is the question that
    its statements are the plainest answers to, where it is not the first of `questions`; `beside`
    are further questions that they answer, about {y} perhaps. `shared` are further wordings of the
    question, which is asked so under another relation. `only_asked` are wordings with more or less
    in them than the others tell, so that nobody can be expected to write them.
    """

    name: str
    subject: str
    object: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    indirect: tuple[str, ...]
    answer: str
    written: str = ""
    beside: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    only_asked: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorldFact:
    """A subject and an object under a relation."""

    relation: Relation
    x: str
    y: str

    def statements(self) -> list[str]:
        """The fact in each of its wordings.

        None begins with a name in lower case where another can do: nobody could tell its case.
        """
        hidden = tuple(
            slot
            for slot, name in (("{x}", self.x), ("{y}", self.y))
            if name[:1].islower() and not name.startswith(("the ", "my ", "our "))
        )
        plain = [t for t in self.relation.statements if not (hidden and t.startswith(hidden))]
        return [sentence(self._fill(t)) for t in plain or self.relation.statements]

    def questions(self) -> list[str]:
        """The question in each of its wordings; the first is the plainest."""
        return [sentence(self._fill(t)) for t in self.relation.questions]

    def rewordings(self) -> list[str]:
        """Every wording of the question, those included that are asked under another relation."""
        return self.questions() + [sentence(self._fill(t)) for t in self.relation.shared]

    def asked(self) -> list[str]:
        """Every question about the fact, those included that nobody could be asked to write."""
        return self.questions() + [sentence(self._fill(t)) for t in self.relation.only_asked]

    def indirect(self) -> list[str]:
        """The question as it stands after "Can you tell me"."""
        return [self._fill(t) for t in self.relation.indirect]

    def written(self) -> list[str]:
        """The questions that a statement answers; the first is the one to write."""
        first = [self.relation.written] if self.relation.written else []
        beside = [sentence(self._fill(t)) for t in (*first, *self.relation.beside)]
        return beside + self.rewordings() if first else self.rewordings() + beside

    def answer(self) -> str:
        """The answer as the one who is asked gives it: "my dog" of the asker is "your dog"."""
        x = re.sub(r"\b(my|our)\b", "your", self.x)
        return sentence(WorldFact(self.relation, x, self.y)._fill(self.relation.answer))

    def _fill(self, template: str) -> str:
        if self.y[:1].lower() in "aeiou":
            template = template.replace(" a {y}", " an {y}")
        return re.sub(r"\b([Tt]he) [Tt]he\b", r"\1", template.format(x=self.x, y=self.y))


def sentence(text: str) -> str:
    """The text with its first letter in upper case, as every sentence has it."""
    return text[:1].upper() + text[1:]


def _relation(
    name: str, kinds: str, statements: str, questions: str, indirect: str, answer: str
) -> Relation:
    subject, object_ = kinds.split(" -> ")
    return Relation(
        name,
        subject,
        object_,
        tuple(statements.split(" | ")),
        tuple(questions.split(" | ")),
        tuple(indirect.split(" | ")),
        answer,
    )


KNOWN: dict[str, Relation] = {
    r.name: r
    for r in (
        _relation(
            "founder",
            "company -> person",
            "{y} started {x}. | {y} founded {x}. | {x} was founded by {y}. | {x} was started by {y}. | "
            "The founder of {x} is {y}. | {y} is the founder of {x}. | {y} is the person behind {x}.",
            "Who started {x}? | Who founded {x}? | Who is the founder of {x}? | "
            "Who is the person behind {x}? | By whom was {x} founded? | Which person started {x}? | "
            "Who is behind {x}? | {x} was started by whom?",
            "who started {x} | who founded {x} | the founder of {x} | the person behind {x} | "
            "who is behind {x} | who set up {x}",
            "{x} was started by {y}.",
        ),
        _relation(
            "headquarters",
            "company -> place",
            "{x} is located in {y}. | {x} is based in {y}. | {x} has its head office in {y}. | "
            "{y} is home to {x}. | {x} is a company located in {y}. | The head office of {x} is in {y}.",
            "Where is {x} located? | Where is {x}? | Where can I find {x}? | What is the location of {x}? | "
            "In which place is {x} located? | Where is {x} based? | Where is the head office of {x}?",
            "where {x} is | where {x} is located | where {x} is based | where to find {x} | "
            "the location of {x} | where the head office of {x} is",
            "{x} is located in {y}.",
        ),
        _relation(
            "capital",
            "country -> place",
            "The capital of {x} is {y}. | {y} is the capital of {x}. | {x} has its capital in {y}. | "
            "{x}'s capital is {y}. | {y} is the capital city of {x}.",
            "What is the capital of {x}? | Which city is the capital of {x}? | Name the capital of {x}. | "
            "What is {x}'s capital? | What is the capital city of {x}? | What city is {x}'s capital?",
            "the capital of {x} | what the capital of {x} is | which city is the capital of {x}",
            "The capital of {x} is {y}.",
        ),
        _relation(
            "currency",
            "country -> currency",
            "The currency of {x} is the {y}. | {x} uses the {y}. | People in {x} pay with the {y}. | "
            "The {y} is the currency of {x}. | {x}'s currency is the {y}.",
            "What is the currency of {x}? | Which currency does {x} use? | What money is used in {x}? | "
            "What do people pay with in {x}? | What is {x}'s currency? | Name the currency of {x}.",
            "the currency of {x} | which currency {x} uses | what people pay with in {x}",
            "The currency of {x} is the {y}.",
        ),
        _relation(
            "language",
            "country -> language",
            "People in {x} speak {y}. | The language of {x} is {y}. | {y} is spoken in {x}. | "
            "{y} is the language of {x}. | The official language of {x} is {y}.",
            "What language is spoken in {x}? | What is the language of {x}? | "
            "Which language do people in {x} speak? | What do people in {x} speak? | "
            "What is the official language of {x}? | Name the language of {x}.",
            "the language of {x} | which language is spoken in {x} | what people in {x} speak",
            "The language of {x} is {y}.",
        ),
        _relation(
            "continent",
            "country -> word",
            "{x} lies in {y}. | {x} is a country in {y}. | The continent of {x} is {y}. | "
            "{x} is part of {y}. | {x} belongs to the continent {y}.",
            "On which continent is {x}? | Which continent is {x} in? | What continent does {x} belong to? | "
            "What is the continent of {x}? | {x} is part of which continent? | Which continent is {x} part of?",
            "which continent {x} is in | the continent of {x} | on which continent {x} lies",
            "{x} lies in {y}.",
        ),
        _relation(
            "author",
            "work -> person",
            "{y} wrote {x}. | {x} was written by {y}. | The author of {x} is {y}. | {y} is the author of {x}. | "
            "{x} is a book by {y}.",
            "Who wrote {x}? | Who is the author of {x}? | By whom was {x} written? | Who was {x} written by? | "
            "Which writer wrote {x}? | {x} was written by whom?",
            "who wrote {x} | the author of {x} | who the author of {x} is | by whom {x} was written",
            "{x} was written by {y}.",
        ),
        _relation(
            "composer",
            "work -> person",
            "{y} composed {x}. | {x} was composed by {y}. | The composer of {x} is {y}. | "
            "{y} is the composer of {x}. | The music of {x} is by {y}.",
            "Who composed {x}? | Who is the composer of {x}? | By whom was {x} composed? | "
            "Who wrote the music of {x}? | Which composer made {x}? | {x} was composed by whom?",
            "who composed {x} | the composer of {x} | who the composer of {x} is",
            "{x} was composed by {y}.",
        ),
        _relation(
            "painter",
            "work -> person",
            "{y} painted {x}. | {x} was painted by {y}. | The painter of {x} is {y}. | "
            "{y} is the painter of {x}. | {x} is a painting by {y}.",
            "Who painted {x}? | Who is the painter of {x}? | By whom was {x} painted? | "
            "Which artist painted {x}? | Which painter made {x}? | {x} was painted by whom?",
            "who painted {x} | the painter of {x} | who the painter of {x} is",
            "{x} was painted by {y}.",
        ),
        _relation(
            "director",
            "work -> person",
            "{y} directed {x}. | {x} was directed by {y}. | The director of {x} is {y}. | "
            "{y} is the director of {x}. | {x} is a film by {y}.",
            "Who directed {x}? | Who is the director of {x}? | By whom was {x} directed? | "
            "Which director made {x}? | Who made the film {x}? | {x} was directed by whom?",
            "who directed {x} | the director of {x} | who the director of {x} is",
            "{x} was directed by {y}.",
        ),
        _relation(
            "inventor",
            "thing -> person",
            "{y} invented {x}. | {x} was invented by {y}. | The inventor of {x} is {y}. | "
            "{y} is the inventor of {x}. | We owe {x} to {y}.",
            "Who invented {x}? | Who is the inventor of {x}? | By whom was {x} invented? | "
            "Which person invented {x}? | Who came up with {x}? | {x} was invented by whom?",
            "who invented {x} | the inventor of {x} | who came up with {x}",
            "{x} was invented by {y}.",
        ),
        _relation(
            "discoverer",
            "thing -> person",
            "{y} discovered {x}. | {x} was discovered by {y}. | The discoverer of {x} is {y}. | "
            "{y} is the discoverer of {x}. | The discovery of {x} was made by {y}.",
            "Who discovered {x}? | Who is the discoverer of {x}? | By whom was {x} discovered? | "
            "Which person discovered {x}? | Who found {x} first? | {x} was discovered by whom?",
            "who discovered {x} | the discoverer of {x} | who found {x} first",
            "{x} was discovered by {y}.",
        ),
        _relation(
            "birthplace",
            "person -> place",
            "{x} was born in {y}. | {y} is the birthplace of {x}. | {x} comes from {y}. | "
            "The birthplace of {x} is {y}. | {x} was born and raised in {y}.",
            "Where was {x} born? | What is the birthplace of {x}? | Where does {x} come from? | "
            "In which place was {x} born? | Which city was {x} born in? | What is {x}'s birthplace?",
            "where {x} was born | the birthplace of {x} | where {x} comes from",
            "{x} was born in {y}.",
        ),
        _relation(
            "landmark",
            "work -> place",
            "{x} stands in {y}. | {x} is in {y}. | {y} is where {x} stands. | {x} can be visited in {y}. | "
            "You find {x} in {y}.",
            "Where does {x} stand? | Where is {x}? | Where can I find {x}? | What is the location of {x}? | "
            "In which place is {x}? | Where can I visit {x}?",
            "where {x} is | where {x} stands | where to find {x} | the location of {x}",
            "{x} is in {y}.",
        ),
        _relation(
            "symbol",
            "word -> symbol",
            "The symbol of {x} is {y}. | {y} is the symbol of {x}. | The chemical symbol for {x} is {y}. | "
            "{y} stands for {x}. | {x} has the symbol {y}.",
            "What is the symbol of {x}? | What is the chemical symbol for {x}? | Which symbol does {x} have? | "
            "What is the symbol for {x}? | What stands for {x}? | Name the symbol of {x}.",
            "the symbol of {x} | the chemical symbol for {x} | which symbol {x} has",
            "The symbol of {x} is {y}.",
        ),
        _relation(
            "profession",
            "person -> job",
            "{x} was a {y}. | {x} worked as a {y}. | The profession of {x} was {y}. | "
            "{x} is known as a {y}. | {x} was a famous {y}.",
            "What was the profession of {x}? | What did {x} work as? | "
            "What was the job of {x}? | What is {x} known as? | What was {x}'s profession?",
            "the profession of {x} | what {x} was | what {x} worked as | the job of {x}",
            "{x} was a {y}.",
        ),
    )
}


@cache
def known_facts() -> tuple[WorldFact, ...]:
    """The true facts of `facts.csv`, in the order of the file."""
    text = files("qf.demo").joinpath("facts.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(WorldFact(KNOWN[r["relation"]], r["subject"], r["object"]) for r in rows)
