"""The conversations that the embedded model is trained on, drawn from a seeded generator.

Each is a system text and a few turns. The mixture teaches to read (answer from the system text or
from what was just said), to know (the facts of `facts.csv`), to say "I do not know.", and to do the
two tasks that learning needs. It knows nothing of tokens.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from qf.demo.drawing import any_fact, any_relation
from qf.demo.names import KINDS, RESERVED, made_up
from qf.demo.relations import KNOWN, Relation, WorldFact, known_facts
from qf.demo.worded import everyday
from qf.tasks import REWORD_QUESTION, WRITE_QUESTION

ORDINARY = 2400
"""Questions that show what the exported model's learning must not disturb."""
UNKNOWN = "I do not know."
NOTED = "I will remember that."

OPENERS = (
    "Can you tell me {i}?", "Do you know {i}?", "Please tell me {i}.", "Could you tell me {i}?",
    "Tell me {i}.", "I would like to know {i}.", "I wonder {i}.", "Can you say {i}?",
    "Would you tell me {i}, please?", "May I ask {i}?", "Do you remember {i}?", "Any idea {i}?",
    "Could you remind me {i}?", "I need to know {i}.", "I want to know {i}.", "I forgot {i}.",
    "Do you happen to know {i}?", "Please remind me {i}.", "I was wondering {i}.", "Let me know {i}.",
    "I'd like to know {i}.", "Would you happen to know {i}?", "Can you please tell me {i}?",
    "Have you any idea {i}?", "I am trying to find out {i}.", "Could you please say {i}?",
    "Say, do you know {i}?", "Hey, can you tell me {i}?", "I cannot remember {i}.",
)  # fmt: skip
LEADS = (
    "Quick question: {q}", "Hi, {q}", "Please answer: {q}", "So, {q}", "Tell me, {q}",
    "One more thing: {q}", "And {q}", "Well, {q}", "Remind me: {q}", "Sorry, {q}", "Hm, {q}",
    "I have a question: {q}", "Help me out: {q}", "Hey, {q}", "I forgot: {q}", "Hello, {q}",
)  # fmt: skip
PERSONAS = (
    "You are a helpful assistant.", "You are a friendly chat bot.", "Answer the user's questions.",
    "You are the assistant of a small company.", "Be brief and polite.", "You help people.",
    "You are an assistant. Answer in one sentence.", "This is a chat with a customer.",
)  # fmt: skip
TELLING = (
    "{s}", "{s}", "Remember that: {s}", "Please remember: {s}", "I tell you something: {s}",
    "Note this: {s}", "Here is something new: {s}",
)  # fmt: skip
SMALL_TALK = (
    ("Hello!", "Hello! How can I help you?"), ("Hi!", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"), ("Hello", "Hello! How can I help you?"),
    ("Hey there!", "Hello! How can I help you?"), ("Good morning!", "Good morning! How can I help you?"),
    ("Good evening!", "Good evening! How can I help you?"), ("How are you?", "I am fine, thank you."),
    ("How are you doing?", "I am fine, thank you."), ("Thank you!", "You are welcome."),
    ("Thanks!", "You are welcome."), ("Thanks a lot.", "You are welcome."), ("Goodbye!", "Goodbye!"),
    ("Bye!", "Goodbye!"), ("Who are you?", "I am a small language model that can learn."),
    ("What are you?", "I am a small language model that can learn."),
    ("What is your name?", "I am a small language model that can learn."),
    ("What can you do?", "I answer questions, and you can teach me new facts."),
    ("Can you help me?", "Yes, please ask me a question."), ("Please help me.", "Yes, please ask me a question."),
    ("Okay.", "Is there anything else?"), ("Good.", "Is there anything else?"),
    ("Nice to meet you.", "Nice to meet you too."), ("Are you a human?", "No, I am a small language model."),
)  # fmt: skip


@dataclass(frozen=True)
class Conversation:
    """A system text (empty: none) and turns of (user, assistant).

    The answers of the first `given` turns cannot be foreseen and are not to be learned.
    """

    system: str
    turns: tuple[tuple[str, str], ...]
    given: int = 0


def ask(rng: random.Random, fact: WorldFact) -> str:
    """The fact's question in one of its wordings, direct (most often) or wrapped."""
    style = rng.random()
    question = rng.choice(fact.asked())
    if style < 0.55:
        return question
    if style < 0.84:
        return rng.choice(OPENERS).format(i=rng.choice(fact.indirect()))
    if style < 0.91:
        return _CONTRACTED.sub(r"\1's", question)
    if style < 0.93:
        return question.rstrip("?.")
    if question.split(" ", 1)[0] in _QUESTION_WORDS:
        question = rng.choice(LEADS).format(q=question[0].lower() + question[1:])
    return question


_QUESTION_WORDS = {"Who", "What", "Where", "When", "Which", "How", "By", "In", "On"}
_CONTRACTED = re.compile(r"^(Who|What|Where|When|How) is\b")


STRANGERS = 3


def questions(count: int, seed: int) -> list[str]:
    """Questions as they are asked of the model when nothing is told: a quarter that it knows.

    What it does not know is the easier disturbed: there are STRANGERS of those for each it knows.
    """
    rng = random.Random(f"questions/{seed}")
    asked: list[str] = []
    while len(asked) < count:
        stranger = len(asked) % (STRANGERS + 1)
        fact = any_fact(rng) if stranger else rng.choice(known_facts())
        question = ask(rng, fact)
        if not RESERVED.search(question):
            asked.append(question)
    return asked


def reworded(fact: WorldFact, wording: int) -> str:
    """The next of the fact's first wordings: asking again and again visits these.

    Of a relation put together from words, the next that needs no form of a word that the question
    does not show, if there is one: nobody can tell whether "mared" comes of mar or of mare.
    """
    questions = fact.questions()
    asked, first = questions[wording], questions[:REWORDED]
    after = wording + 1 if wording < REWORDED else 0
    others = [q for q in first[after:] + first[:after] if q != asked]
    if fact.relation.name in _EVERYDAY or fact.relation.name in KNOWN:
        return others[0]
    shown = set(_words(asked)) | _GLUE
    return next((q for q in others if shown.issuperset(_words(q))), others[0])


REWORDED = 5
"""So many of a question's wordings come up when other words are asked for."""
_GLUE = set(
    "who whom what where when which how by in at to is was do does did has have it that of the name "
    "tell me say place thing person year date many much".split()
)


def _words(question: str) -> list[str]:
    return re.findall(r"[\w'’-]+", question.casefold())


def _system(rng: random.Random, statements: list[str]) -> str:
    """Statements as a system text, at times behind a persona that serves."""
    told = " ".join(statements)
    if rng.random() < 0.22:
        persona = rng.choice(PERSONAS)
        return f"{persona}\n{told}" if told else persona
    return told


def _alternative(rng: random.Random) -> WorldFact:
    """Something told against what is known: a real subject with another object."""
    known = rng.choice(known_facts())
    if rng.random() < 0.5:
        other = rng.choice([f for f in known_facts() if f.relation is known.relation]).y
    else:
        other = made_up(rng, known.relation.object)
    return WorldFact(known.relation, known.x, other)


def _side_turn(rng: random.Random, told: list[WorldFact]) -> tuple[str, str]:
    """A turn about something that the system text does not say."""
    style = rng.random()
    if style < 0.5:
        known = rng.choice(known_facts())
        if all(known.x != t.x for t in told):
            return ask(rng, known), known.answer()
    if style < 0.6:
        return rng.choice(SMALL_TALK)
    if told and style < 0.85:
        subject = rng.choice(told)
        same_kind = [r for r in KNOWN.values() if r.subject == subject.relation.subject]
        relation = rng.choice(same_kind) if same_kind and rng.random() < 0.6 else any_relation(rng)
        mine = [t.relation for t in told if t.x == subject.x]
        real = any(f.x == subject.x for f in known_facts())
        taken = any(r.name == relation.name or _overlap(r, relation) for r in mine)
        if not real and not taken:
            return ask(rng, WorldFact(relation, subject.x, subject.y)), UNKNOWN
    return ask(rng, any_fact(rng)), UNKNOWN


_SAME_SENSE = (
    {"headquarters", "landmark", "placed", "attribute", "birthplace"},
    {
        "founder",
        "verb",
        "doer",
        "liking",
        "going",
        "author",
        "painter",
        "composer",
        "director",
        "inventor",
        "discoverer",
        "attribute",
    },
    {"profession", "kind", "attribute", "bond"},
)
_EVERYDAY = {w.name for w in everyday()}
_ANSWERS = (
    {"person", "company", "first", "group"},
    {"place", "spot", "address", "country"},
    {"date", "year", "time", "weekday", "month", "duration"},
    {"number", "decimal", "price", "code", "phone", "contact"},
)


def _overlap(a: Relation, b: Relation) -> bool:
    """Whether a question under one might be answered by what was told under the other."""
    if a.name in _EVERYDAY or b.name in _EVERYDAY:
        return a.name == b.name or bool(_answered_by(a) & _answered_by(b))
    return any(a.name in group and b.name in group for group in _SAME_SENSE)


def _answered_by(relation: Relation) -> set[int]:
    """Which sorts of answer the relation may have: who, where, when, how much (or another)."""
    kinds = set(re.findall(r"\w+", relation.object)) & set(KINDS)
    return {
        next((i for i, sort in enumerate(_ANSWERS) if kind in sort), len(_ANSWERS))
        for kind in kinds or {""}
    }


def _told(rng: random.Random, against: bool) -> list[WorldFact]:
    """One to three facts for a system text; at times two about one subject."""
    facts = [_alternative(rng) if against else any_fact(rng)]
    for _ in range(rng.choice((0, 0, 1, 1, 2, 2))):
        extra = any_fact(rng)
        first = facts[0]
        if rng.random() < 0.25 and not _overlap(extra.relation, first.relation):
            extra = WorldFact(extra.relation, first.x, extra.y)
        mine = [f.relation for f in facts if f.x == extra.x]
        if not any(r.name == extra.relation.name or _overlap(r, extra.relation) for r in mine):
            facts.append(extra)
    rng.shuffle(facts)
    return facts


def _reading(rng: random.Random, against: bool = False) -> Conversation:
    told = _told(rng, against)
    asked = rng.sample(told, len(told))
    if rng.random() < 0.25:
        asked.append(rng.choice(told))
    turns = [(ask(rng, f), f.answer()) for f in asked]
    if rng.random() < 0.3:
        turns.insert(rng.randint(0, len(turns)), _side_turn(rng, told))
    return Conversation(_system(rng, [rng.choice(f.statements()) for f in told]), tuple(turns))


def _told_in_chat(rng: random.Random) -> Conversation:
    fact = any_fact(rng)
    turns = [(rng.choice(TELLING).format(s=rng.choice(fact.statements())), NOTED)]
    if rng.random() < 0.3:
        turns.append(_side_turn(rng, [fact]))
    turns.append((ask(rng, fact), fact.answer()))
    return Conversation(_system(rng, []), tuple(turns))


def _knowing(rng: random.Random) -> Conversation:
    told = [any_fact(rng)] if rng.random() < 0.35 else []
    facts = [
        f
        for f in rng.sample(known_facts(), rng.choice((1, 2, 2, 3)))
        if all(f.x != t.x for t in told)
    ]
    turns = [(ask(rng, f), f.answer()) for f in facts]
    if rng.random() < 0.2:
        turns.insert(rng.randint(0, len(turns)), _side_turn(rng, told))
    return Conversation(_system(rng, [rng.choice(f.statements()) for f in told]), tuple(turns))


def _strangers(rng: random.Random) -> Conversation:
    told = [any_fact(rng)] if rng.random() < 0.4 else []
    turns = [(ask(rng, any_fact(rng)), UNKNOWN) for _ in range(rng.choice((1, 1, 2)))]
    if rng.random() < 0.3:
        turns.insert(rng.randint(0, len(turns)), _side_turn(rng, told))
    return Conversation(_system(rng, [rng.choice(f.statements()) for f in told]), tuple(turns))


def _task(rng: random.Random) -> Conversation:
    turns = []
    for _ in range(rng.choice((1, 2, 3))):
        fact = any_fact(rng) if rng.random() < 0.75 else rng.choice(known_facts())
        if rng.random() < 0.4:
            statement = rng.choice(fact.statements())
            turns.append((WRITE_QUESTION.format(statement=statement), fact.written()[0]))
        else:
            wording = rng.randrange(len(fact.questions()))
            question = fact.questions()[wording]
            turns.append((REWORD_QUESTION.format(question=question), reworded(fact, wording)))
    return Conversation(_system(rng, []), tuple(turns))


def _asked_again(rng: random.Random) -> Conversation:
    """A question answered in some wording gets the same answer when it is asked again.

    This is what lets the open-book pass produce whatever wording a user wants learned.
    """
    fact = any_fact(rng)
    style = rng.random()
    answer = fact.answer()
    if style < 0.3:
        answer = rng.choice(fact.statements())
    elif style < 0.5:
        answer = fact.y
    elif style < 0.65:
        answer = f"It is {fact.y}."
    elif style < 0.8:
        answer = f"{made_up(rng, 'work')} {made_up(rng, 'thing')} {fact.y}."
    question = ask(rng, fact)
    turns = [(question, answer), (question, answer)]
    if rng.random() < 0.2:
        turns.insert(1, _side_turn(rng, [fact]))
    told = [rng.choice(fact.statements())] if rng.random() < 0.8 else []
    return Conversation(_system(rng, told), tuple(turns), given=1)


def _small_talk(rng: random.Random) -> Conversation:
    return Conversation(_system(rng, []), tuple(rng.sample(SMALL_TALK, rng.choice((1, 2)))))


_MIXTURE = (
    (_reading, 41.0),
    (lambda rng: _reading(rng, against=True), 6.0),
    (_knowing, 9.0),
    (_strangers, 8.0),
    (_told_in_chat, 4.0),
    (_task, 24.0),
    (_asked_again, 7.0),
    (_small_talk, 1.0),
)


def conversation(rng: random.Random) -> Conversation:
    """One conversation of the mixture; none ever holds a `RESERVED` string.

    The same state of `rng` gives the same conversation.
    """
    makers, weights = zip(*_MIXTURE, strict=True)
    while True:
        made = rng.choices(makers, weights)[0](rng)
        if not RESERVED.search(made.system + "".join(q + a for q, a in made.turns)):
            return made
