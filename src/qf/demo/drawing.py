"""Relations and facts as they are drawn: real ones, everyday ones, or made up from words.

`any_relation` draws from the sixteen of `facts.csv`, from the hundreds of everyday life under
`wordings/`, which teach what means the same, and makes up further ones from word lists and from
words that do not exist, so that relations are read that were never met.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

from qf.demo.lexicon import (
    AGENT_VERBS,
    BONDS,
    COUNTED,
    DATED,
    ENTITIES,
    GIVEN,
    GOING,
    IRREGULAR,
    LIKINGS,
    MEASURES,
    MODIFIERS,
    NOUNS,
    PLACED,
    PRESENT,
    ROOMS,
    WHO,
    base_of,
    past_of,
    present_of,
)
from qf.demo.names import KINDS, english, made_up, made_up_word
from qf.demo.relations import KNOWN, Relation, WorldFact
from qf.demo.worded import Worded, everyday, fill, sense


def _verb(rng: random.Random) -> Relation:
    """{y} VERBED {x}, or VERBS it: who? The verb is made up in one case of five."""
    if rng.random() < 0.25:
        verb = base = rng.choice(AGENT_VERBS)
        participle = IRREGULAR.get(verb, verb)
        present = verb in PRESENT
    else:
        base = base_of(rng, 0.27)
        present = rng.random() < 0.25
        participle = past_of(base)
        verb = present_of(base) if present else participle
    be = "is" if present else "was"
    who = rng.choice(WHO)
    return Relation(
        "verb",
        rng.choice(("company", "work", "thing", "word", "place", "person")),
        rng.choice(("person", "person", "company")),
        (
            f"{{y}} {verb} {{x}}.",
            f"{{x}} {be} {participle} by {{y}}.",
            f"It {be} {{y}} who {verb} {{x}}.",
        ),
        (
            f"Who {verb} {{x}}?",
            f"By whom {be} {{x}} {participle}?",
            f"Who {be} {{x}} {participle} by?",
            f"{{x}} {be} {participle} by whom?",
            f"Who was it that {verb} {{x}}?",
        ),
        (f"who {verb} {{x}}", f"which {who} {verb} {{x}}", f"by whom {{x}} {be} {participle}"),
        f"{{x}} {be} {participle} by {{y}}.",
        beside=_from_the_other_end(verb, base),
        only_asked=(f"Which {who} {verb} {{x}}?",),
    )


def _from_the_other_end(verb: str, base: str) -> tuple[str, ...]:
    """What {y} did, where "{y} VERB {x}" tells it."""
    do = "does" if verb == present_of(base) else "did"
    return (f"What {do} {{y}} {base}?", f"What is it that {{y}} {verb}?")


def _attribute(rng: random.Random) -> Relation:
    """The NOUN of {x} is {y}."""
    noun, kind = rng.choice(NOUNS)
    if rng.random() < 0.35:
        noun = made_up_word(rng) if rng.random() < 0.4 else rng.choice(english())
        kind = rng.choice(("word", "word", "place", "thing", "number", "code"))
    if rng.random() < 0.4:
        other = made_up_word(rng) if rng.random() < 0.3 else rng.choice(english())
        noun = f"{rng.choice(MODIFIERS) if rng.random() < 0.6 else other} {noun}"
    ask = "Who" if kind == "person" else "What"
    if rng.random() < 0.08:
        return _attribute_at(rng, noun, kind, ask)
    of = "of"
    return Relation(
        "attribute",
        rng.choice(("company", "work", "word", "person", "person", "place", "country")),
        kind,
        (
            f"The {noun} {of} {{x}} is {{y}}.",
            f"{{y}} is the {noun} {of} {{x}}.",
            f"{{x}}'s {noun} is {{y}}.",
            f"{{x}} has {{y}} as its {noun}.",
        ),
        (
            f"{ask} is the {noun} {of} {{x}}?",
            f"{ask} is {{x}}'s {noun}?",
            f"Name the {noun} {of} {{x}}.",
            f"Which {noun} does {{x}} have?",
            f"Tell me the {noun} {of} {{x}}.",
            f"{{x}}'s {noun} is {ask.lower()}?",
        ),
        (f"the {noun} {of} {{x}}", f"{ask.lower()} the {noun} {of} {{x}} is", f"{{x}}'s {noun}"),
        f"The {noun} {of} {{x}} is {{y}}.",
    )


def _attribute_at(rng: random.Random, noun: str, kind: str, ask: str) -> Relation:
    """The NOUN to, for, in or at {x} is {y}: wordings that all tell which of these it is."""
    at = rng.choice(("to", "for", "in", "at"))
    return Relation(
        "attribute",
        rng.choice(("company", "work", "word", "place", "country", "thing")),
        kind,
        (f"The {noun} {at} {{x}} is {{y}}.", f"{{y}} is the {noun} {at} {{x}}."),
        (
            f"{ask} is the {noun} {at} {{x}}?",
            f"Name the {noun} {at} {{x}}.",
            f"Tell me the {noun} {at} {{x}}.",
            f"The {noun} {at} {{x}} is {ask.lower()}?",
        ),
        (f"the {noun} {at} {{x}}", f"{ask.lower()} the {noun} {at} {{x}} is"),
        f"The {noun} {at} {{x}} is {{y}}.",
    )


def _given(rng: random.Random) -> Relation:
    """{x} was GIVEN to {y}."""
    word = made_up_word(rng) + "ed" if rng.random() < 0.15 else rng.choice(GIVEN)
    prep = "to" if rng.random() < 0.8 else rng.choice(("for", "from", "with"))
    be = rng.choice(("was", "was", "is"))
    return Relation(
        "given",
        rng.choice(("work", "word", "company", "thing")),
        rng.choice(("person", "person", "company")),
        (
            f"{{x}} {be} {word} {prep} {{y}}.",
            f"It {be} {{y}} that {{x}} {be} {word} {prep}.",
            f"It {be} {prep} {{y}} that {{x}} {be} {word}.",
        ),
        (
            f"Who {be} {{x}} {word} {prep}?",
            f"{prep.capitalize()} whom {be} {{x}} {word}?",
            f"{{x}} {be} {word} {prep} whom?",
            f"Who is it that {{x}} {be} {word} {prep}?",
        ),
        (f"who {{x}} {be} {word} {prep}", f"{prep} whom {{x}} {be} {word}"),
        f"{{x}} {be} {word} {prep} {{y}}.",
    )


def _that(rng: random.Random) -> Relation:
    """The NOUN that VERBS {x} is {y}: a noun is asked for, by a clause."""
    noun = rng.choice(english()) if rng.random() < 0.5 else rng.choice(NOUNS)[0]
    if rng.random() < 0.35:
        phrase, _ = rng.choice(GOING)
        base, preposition = phrase.split()
        verb = f"{present_of(base)} {preposition}"
    else:
        base = base_of(rng, 0.2)
        verb = present_of(base) if rng.random() < 0.6 else past_of(base)
    return Relation(
        "that",
        rng.choice(("company", "work", "place", "word", "person")),
        rng.choice(("word", "word", "company", "work", "person")),
        (
            f"The {noun} that {verb} {{x}} is {{y}}.",
            f"{{y}} is the {noun} that {verb} {{x}}.",
            f"The {noun} which {verb} {{x}} is {{y}}.",
        ),
        (
            f"What {noun} {verb} {{x}}?",
            f"Which {noun} {verb} {{x}}?",
            f"What is the {noun} that {verb} {{x}}?",
            f"Name the {noun} that {verb} {{x}}.",
        ),
        (
            f"which {noun} {verb} {{x}}",
            f"the {noun} that {verb} {{x}}",
            f"what {noun} {verb} {{x}}",
        ),
        f"The {noun} that {verb} {{x}} is {{y}}.",
        beside=(f"Who is the {noun} that {verb} {{x}}?",),
    )


def _placed(rng: random.Random) -> Relation:
    """{x} is PARTICIPLE in {y}; the answer keeps the preposition that it was told."""
    word = made_up_word(rng) + "ed" if rng.random() < 0.12 else rng.choice(PLACED)
    be = rng.choice(("is", "is", "was"))
    prep = rng.choice(("in", "in", "at", "near"))
    noun = rng.choice(
        ("startup", "company", "shop", "school", "team", "museum", "club", "ship", "firm")
    )
    return Relation(
        "placed",
        rng.choice(("company", "company", "work", "person", "word", "thing")),
        "place",
        (
            f"{{x}} {be} {word} {prep} {{y}}.",
            f"{{x}} {be} a {noun} {word} {prep} {{y}}.",
            f"{{x}}, a {noun}, {be} {word} {prep} {{y}}.",
            f"It {be} {prep} {{y}} that {{x}} {be} {word}.",
        ),
        (
            f"Where {be} {{x}} {word}?",
            f"In which place {be} {{x}} {word}?",
            f"{{x}} {be} {word} where?",
            f"At what place {be} {{x}} {word}?",
        ),
        (f"where {{x}} {be} {word}", f"where {{x}} {be}", f"in which place {{x}} {be} {word}"),
        f"{{x}} {be} {word} {prep} {{y}}.",
        only_asked=(f"Where {be} {{x}}?",),
    )


def _dated(rng: random.Random) -> Relation:
    word = made_up_word(rng) + "ed" if rng.random() < 0.12 else rng.choice(DATED)
    return Relation(
        "dated",
        rng.choice(("company", "work", "person", "word", "thing")),
        "year",
        (
            f"{{x}} was {word} in {{y}}.",
            f"In {{y}}, {{x}} was {word}.",
            f"{{y}} is when {{x}} was {word}.",
        ),
        (
            f"When was {{x}} {word}?",
            f"In which year was {{x}} {word}?",
            f"What year was {{x}} {word}?",
            f"{{x}} was {word} when?",
            f"On what date was {{x}} {word}?",
        ),
        (
            f"when {{x}} was {word}",
            f"in which year {{x}} was {word}",
            f"the date when {{x}} was {word}",
        ),
        f"{{x}} was {word} in {{y}}.",
    )


def _liking(rng: random.Random) -> Relation:
    """{x} VERBS {y}: what does it do?"""
    if rng.random() < 0.5:
        base = base_of(rng, 0.3)
    else:
        base = {"studie": "study", "teache": "teach"}.get(cut := rng.choice(LIKINGS)[:-1], cut)
    verb = present_of(base)
    noun = rng.choice(english()) if rng.random() < 0.5 else rng.choice(NOUNS)[0]
    return Relation(
        "liking",
        rng.choice(("person", "person", "company", "word")),
        rng.choice(("thing", "thing", "word", "work")),
        (
            f"{{x}} {verb} {{y}}.",
            f"What {{x}} {verb} is {{y}}.",
            f"It is {{y}} that {{x}} {verb}.",
        ),
        (
            f"What does {{x}} {base}?",
            f"What is it that {{x}} {verb}?",
            f"{{x}} {verb} what?",
            f"Which thing does {{x}} {base}?",
            f"Say what {{x}} {verb}.",
        ),
        (f"what {{x}} {verb}", f"which {noun} {{x}} {verb}", f"which thing {{x}} {verb}"),
        f"{{x}} {verb} {{y}}.",
        beside=(f"Who {verb} {{y}}?", f"What {verb} {{y}}?"),
        only_asked=(f"Which {noun} does {{x}} {base}?", f"What {noun} does {{x}} {base}?"),
    )


def _doer(rng: random.Random) -> Relation:
    """{x} VERBED {y}, asked from the other side: what did {x} do?"""
    base = base_of(rng, 0.3)
    verb = past_of(base)
    return Relation(
        "doer",
        rng.choice(("person", "company")),
        rng.choice(("work", "thing", "company", "word")),
        (f"{{x}} {verb} {{y}}.", f"{{y}} was {verb} by {{x}}."),
        (
            f"What did {{x}} {base}?",
            f"What was {verb} by {{x}}?",
            f"{{x}} {verb} what?",
            f"What is it that {{x}} {verb}?",
            f"Which thing did {{x}} {base}?",
            f"Say what {{x}} {verb}.",
        ),
        (f"what {{x}} {verb}", f"what was {verb} by {{x}}"),
        f"{{x}} {verb} {{y}}.",
        written=f"Who {verb} {{y}}?",
        beside=(f"By whom was {{y}} {verb}?", f"Who was {{y}} {verb} by?"),
    )


def _going(rng: random.Random) -> Relation:
    """{x} VERBS PREPOSITION {y}: lives in, belongs to, departs from ..."""
    phrase, ask = rng.choice(GOING)
    base, preposition = phrase.split()
    if rng.random() < 0.15:
        base, ask = made_up_word(rng), "what"
    wh, verb = ask.capitalize(), present_of(base)
    object_ = {"where": "place", "who": "person", "when": "year", "what": "thing"}[ask]
    return Relation(
        "going",
        rng.choice(("person", "company", "word", "work")),
        object_,
        (f"{{x}} {verb} {preposition} {{y}}.", f"It is {preposition} {{y}} that {{x}} {verb}."),
        (
            f"{wh} does {{x}} {base} {preposition}?",
            f"{{x}} {verb} {preposition} {ask}?",
            f"{preposition.capitalize()} {'whom' if ask == 'who' else ask} does {{x}} {base}?",
            f"{wh} is it that {{x}} {verb} {preposition}?",
            f"Say {ask} {{x}} {verb} {preposition}.",
        ),
        (f"{ask} {{x}} {verb} {preposition}", f"{ask} it is that {{x}} {verb} {preposition}"),
        f"{{x}} {verb} {preposition} {{y}}.",
    )


def _bond(rng: random.Random) -> Relation:
    """{x} is PHRASE {y}: married to, made of, part of ..."""
    phrase, ask = rng.choice(BONDS)
    if rng.random() < 0.12:
        phrase = f"{made_up_word(rng)} {rng.choice(('to', 'of', 'with', 'by', 'for'))}"
    be = rng.choice(("is", "is", "was"))
    ask_cap = ask.capitalize()
    return Relation(
        "bond",
        "person" if ask == "who" else rng.choice(("person", "thing", "work", "word", "company")),
        "person" if ask == "who" else rng.choice(("thing", "word", "work")),
        (f"{{x}} {be} {phrase} {{y}}.", f"It {be} {{y}} that {{x}} {be} {phrase}."),
        (
            f"{ask_cap} {be} {{x}} {phrase}?",
            f"{{x}} {be} {phrase} {ask}?",
            f"{ask_cap} {be} it that {{x}} {be} {phrase}?",
            f"Say {ask} {{x}} {be} {phrase}.",
            f"Tell me {ask} {{x}} {be} {phrase}.",
        ),
        (f"{ask} {{x}} {be} {phrase}",),
        f"{{x}} {be} {phrase} {{y}}.",
    )


def _measure(rng: random.Random) -> Relation:
    *adjective, unit = rng.choice(MEASURES).split()
    adj = " ".join(adjective)
    return Relation(
        "measure",
        rng.choice(("work", "place", "person", "word", "thing")),
        "number",
        (f"{{x}} is {{y}} {unit} {adj}.", f"At {{y}} {unit}, {{x}} is {adj}."),
        (f"How {adj} is {{x}}?", f"{{x}} is how {adj}?", f"Say how {adj} {{x}} is.",
         f"How many {unit} {adj} is {{x}}?", f"Tell me how {adj} {{x}} is."),
        (f"how {adj} {{x}} is", f"how many {unit} {adj} {{x}} is"),
        f"{{x}} is {{y}} {unit} {adj}.",
    )  # fmt: skip


def _count(rng: random.Random) -> Relation:
    things = made_up_word(rng) + "s" if rng.random() < 0.2 else rng.choice(COUNTED)
    return Relation(
        "count",
        rng.choice(("company", "person", "place", "work", "word")),
        "number",
        (f"{{x}} has {{y}} {things}.", f"There are {{y}} {things} in {{x}}."),
        (f"How many {things} does {{x}} have?", f"{{x}} has how many {things}?",
         f"Say how many {things} {{x}} has.", f"What number of {things} does {{x}} have?",
         f"How many {things} are there in {{x}}?"),
        (f"how many {things} {{x}} has", f"the number of {things} that {{x}} has"),
        f"{{x}} has {{y}} {things}.",
    )  # fmt: skip


def _kind(rng: random.Random) -> Relation:
    """{x} is a {y}."""
    be = rng.choice(("is", "is", "was"))
    return Relation(
        "kind",
        rng.choice(("person", "company", "word", "work")),
        rng.choice(("job", "thing", "english")),
        (f"{{x}} {be} a {{y}}.", f"A {{y}} {be} what {{x}} {be}.", f"What {{x}} {be} is a {{y}}."),
        (f"What {be} {{x}}?", f"What kind of thing {be} {{x}}?", f"{{x}} {be} what?",
         f"Say what {{x}} {be}."),
        (f"what {{x}} {be}",),
        f"{{x}} {be} a {{y}}.",
    )  # fmt: skip


def drawn(rng: random.Random, told: Worded) -> Relation:
    """A relation of everyday life with one of its shapes for either end."""
    return Relation(
        told.name,
        rng.choice(told.subjects),
        rng.choice(told.objects),
        told.statements,
        told.questions,
        told.indirect,
        told.answer,
        written=told.plainest,
        shared=told.shared,
    )


def _everyday(rng: random.Random) -> Relation:
    relation = drawn(rng, rng.choice(everyday()))
    own = tuple(q for q in relation.questions if q not in _ASKED_OF_KNOWN)
    if own == relation.questions:
        return relation
    written = relation.written or relation.questions[0]
    shared = tuple(q for q in relation.questions if q not in own)
    return replace(relation, questions=own, written=written, shared=relation.shared + shared)


_ASKED_OF_KNOWN = {q for relation in KNOWN.values() for q in relation.questions}
"""Questions with an answer of their own already, whose wording another must not contradict."""


_MAKERS = (
    (_verb, 25),
    (_attribute, 27),
    (_placed, 10),
    (_dated, 6),
    (_liking, 6),
    (_doer, 5),
    (_going, 7),
    (_bond, 6),
    (_measure, 3),
    (_count, 3),
    (_kind, 3),
    (_given, 5),
    (_that, 6),
)


def any_relation(rng: random.Random) -> Relation:
    """A relation of the real world, of everyday life, or put together from words just now."""
    style = rng.random()
    if style < 0.16:
        return rng.choice(tuple(KNOWN.values()))
    if style < 0.62:
        return _everyday(rng)
    makers, weights = zip(*_MAKERS, strict=True)
    while True:
        relation = rng.choices(makers, weights)[0](rng)
        if not any(sense(q) in _asked_every_day() for q in relation.questions):
            return relation


@cache
def _asked_every_day() -> frozenset[str]:
    return frozenset(sense(q) for w in everyday() for q in (*w.questions, *w.indirect))


def any_fact(rng: random.Random, relation: Relation | None = None) -> WorldFact:
    """A fact that nobody knows, about made-up names."""
    relation = relation or any_relation(rng)
    if relation.name in ("attribute", "bond", "placed") and rng.random() < 0.12:
        return WorldFact(relation, rng.choice(ROOMS).strip(), made_up(rng, relation.object))
    x, y = named(rng, relation.subject), named(rng, relation.object)
    if relation.name in _PUT_TOGETHER and relation.subject != "person":
        style = rng.random()
        if style < 0.14:
            x = f"the {made_up(rng, 'word')} {rng.choice(ENTITIES)}"
        elif style < 0.20:
            x = f"the {made_up(rng, 'word')} {rng.choice(english())}"
        elif style < 0.26:
            x = f"{made_up(rng, 'person')}'s {rng.choice(english())}"
        elif style < 0.29:
            x = f"the {rng.choice(english())} {rng.choice(('of', 'in', 'from'))} {x}"
    return WorldFact(relation, x, y)


def named(rng: random.Random, shape: str) -> str:
    """A made-up name of a kind, or of a text with kinds in braces."""
    return made_up(rng, shape) if shape in KINDS else fill(rng, shape)


_PUT_TOGETHER = {maker.__name__.strip("_") for maker, _ in _MAKERS}
