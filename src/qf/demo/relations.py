"""How facts are said and asked: sixteen relations of the real world, and endlessly many others.

`KNOWN` holds the relations of `facts.csv`. `any_relation` draws from them, from the hundreds of
everyday life under `wordings/`, which teach what means the same, and makes up further ones from
word lists and from words that do not exist, so that relations are read that were never met.
Wordings use {x} for the subject and {y} for the object.
"""

from __future__ import annotations

import csv
import random
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from qf.demo.names import KINDS, english, made_up, made_up_word
from qf.demo.worded import Worded, everyday, fill, sense


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


AGENT_VERBS = """designed built painted bought sold opened closed created launched trained hired married
repaired cleaned visited climbed crossed filmed photographed planted cooked baked won lost stole hid
carved printed published translated reviewed coached taught raised rescued adopted sponsored funded
owned managed leads runs owns manages teaches coaches built designed drew sang recorded produced
killed defeated hosted organised planned moved ordered rented guarded named renamed decorated tested
approved signed sent delivered collected lifted fixed broke copied tracked mapped followed studied
measured weighed counted proved solved explored conquered ruled saved served supplied""".split()
IRREGULAR = {
    "won": "won", "lost": "lost", "stole": "stolen", "hid": "hidden", "taught": "taught", "leads": "led",
    "runs": "run", "owns": "owned", "manages": "managed", "teaches": "taught", "coaches": "coached",
    "drew": "drawn", "wrote": "written", "sang": "sung", "sent": "sent", "broke": "broken",
}  # fmt: skip
PRESENT = {"leads", "runs", "owns", "manages", "teaches", "coaches"}
NOUN_OBJECTS = {
    "person": """owner manager leader boss editor coach captain teacher doctor lawyer architect
designer winner president mayor king queen chef wife husband brother sister mother father friend rival
partner chairman keeper guide landlord successor neighbour hero mascot assistant secretary pilot CEO
chief executive officer singer drummer guitarist conductor sponsor spokesman guardian creator host""",
    "place": """home location address hometown capital origin headquarters office harbour
destination base venue region district province workplace school""",
    "word": """name nickname password motto title brand logo dog cat horse ship car band team club hobby
favourite food dish dessert drink sport game song movie book subject pet street church religion party
breed model species genus nationality emblem slogan sponsor supplier""",
    "thing": "main product cargo best dish hobby favourite food instrument favourite game present gift",
    "date": "birthday year opening date deadline wedding date founding year release date start date",
    "number": """age height weight price length width depth population number score size speed budget
distance room number phone number floor area code capacity salary""",
    "code": "password code PIN access code serial number licence plate ticket number key flight number id",
    "color": "color colour favourite color flag color eye color paint color",
    "language": "mother tongue native language first language",
    "job": "occupation trade",
    "company": "employer owner bank sponsor supplier maker manufacturer publisher parent company rival brand",
}
MORE_NOUNS = {
    "person": """editor gardener sculptor goalkeeper striker drummer villain saint butcher baker curator
chairwoman treasurer librarian referee narrator translator publisher ambassador
commander sheriff judge prince princess duke nephew uncle aunt cousin grandfather neighbour tenant
organiser trainer mentor cook nurse driver janitor producer""",
    "word": """ingredient antidote flower bird tree anthem dance hill river bridge mountain lake motto
prize winner opponent nickname alias variety recipe spice metal gas dialect alphabet
project product service feature theme genre style season festival holiday ceremony weapon tool
engine font editor browser server database framework protocol planet moon star signal""",
    "place": "gate terminal platform entrance exit station port market factory laboratory vault shelter",
    "number": "limit record total target rank seat floor page bus line platform channel frequency year",
    "thing": "export import crop snack cure remedy fuel medicine tradition product",
}
MODIFIERS = """main national secret first second third last next best worst head chief gate wifi stage
patron old new official local lucky left right northern southern summer winter evening morning door
office garden school bank team project family home test backup emergency guest room holy royal biggest
tallest longest oldest youngest fastest smallest highest most famous final current former deputy
assistant senior junior safe master admin public private daily weekly yearly original real middle
maiden legal technical sales marketing day night weekend front back top red blue golden silver""".split()
BASES = """restore produce acquire narrate edit conduct choreograph sculpt award manufacture
support design coach host manage train repair visit open close launch hire clean
climb cross film photograph plant cook bake carve print publish translate review raise rescue adopt
sponsor fund own record defeat organise plan move order rent guard name decorate test approve sign
deliver collect lift fix track map follow study measure weigh count explore conquer rule save serve
supply create establish develop discuss describe explain teach watch wash kiss
push pull chase catch carry marry bury copy hurry destroy protect attack defend admire praise blame
help call ask answer invite greet thank reward punish arrest release employ promote elect appoint
replace recommend mention notice ignore remember recognise""".split()
DOUBLED = {"map", "plan", "hug", "stop", "tap", "rob"}
IRREGULAR_PASTS = {"teach": "taught", "catch": "caught", "rule": "ruled", "kiss": "kissed"}
GOING = """live in|where;work at|where;work for|who;depart from|where;belong to|who;flow through|where;
end in|where;begin at|where;lead to|what;play for|who;study at|where;trade with|who;report to|who;
depend on|what;sleep under|what;arrive at|where;stop at|where;run on|what;grow in|where;pray to|who;
look like|what;smell of|what;consist of|what;start with|what;fight against|who;vote for|who;
travel to|where;sail to|where;believe in|what;suffer from|what;listen to|what;apply to|what;
lie near|where;stand behind|what;stay at|where;open at|when;close at|when;meet in|where"""
ENTITIES = """Reef Chapel Cup Prize Orchestra Archive Ferry Fund Rovers Bridge Tower Hotel Museum Festival
Theatre Library Institute Bank River Valley Forest Canal Gallery Palace Temple Stadium Market Express
Treaty Award Trophy House Villa Lighthouse Observatory Clinic Garden Record Project Society League
Party Union Council Army Church Hospital Mine Dam Railway Trail Desert Glacier Island""".split()
WHO = "person company team artist group firm student man woman expert".split()
_MULTIWORD = (
    "chief executive officer", "best dish", "favourite food", "favourite game", "main product",
    "opening date", "wedding date", "founding year", "release date", "start date", "room number",
    "phone number", "floor area", "area code", "access code", "serial number", "licence plate",
    "ticket number", "flight number", "favourite color", "flag color", "eye color", "paint color",
    "mother tongue", "native language", "first language", "parent company",
)  # fmt: skip
PLACED = """ kept stored buried held made built sold grown found hidden parked filmed
displayed shown produced published printed baked brewed played served stationed registered moored
raised educated trained employed""".split()
DATED = """founded built born opened closed launched published released discovered finished started
invented created signed painted sold married elected crowned established completed""".split()
LIKINGS = """likes loves drinks eats plays speaks studies drives teaches collects wears sells makes builds
grows paints reads rides wants needs hates uses owns writes cooks sings breeds repairs rents
prefers designs produces exports imports brews bakes""".split()
BONDS = """married to|who;the son of|who;the daughter of|who;the brother of|who;the wife of|who;named after|who;
followed by|who;led by|who;owned by|who;a friend of|who;related to|who;in love with|who;afraid of|what;
made of|what;allergic to|what;famous for|what;known for|what;full of|what;proud of|what;part of|what;
a member of|what;covered with|what;good at|what;used for|what;made from|what;interested in|what;
called|what;a kind of|what;next to|what;close to|what;responsible for|what"""
MEASURES = (
    "tall metres", "tall feet", "long metres", "long kilometres", "deep metres", "wide metres",
    "high metres", "old years", "heavy kilograms", "far away miles", "heavy tons", "old days",
)  # fmt: skip
ROOMS = """the lab|the meeting room|the kitchen|the red door|my dog|my cat|my sister|my brother|my boss|
my car|my teacher|my wife|our office|our team|our server|our school|the safe|the library|the garage|the
old house|our new printer|my bike|my best friend|the night train|the green boat|our coffee machine|my
company|our project|the new building|my phone|the garden gate""".replace("\n", " ").split("|")


def _past(base: str) -> str:
    if base in IRREGULAR_PASTS:
        return IRREGULAR_PASTS[base]
    if base in DOUBLED:
        return base + base[-1] + "ed"
    if base.endswith("e"):
        return base + "d"
    return base[:-1] + "ied" if _ends_in_y(base) else base + "ed"


def _present(base: str) -> str:
    if base.endswith(("s", "x", "ch", "sh", "o")):
        return base + "es"
    return base[:-1] + "ies" if _ends_in_y(base) else base + "s"


def _ends_in_y(base: str) -> bool:
    return base.endswith("y") and base[-2:-1] not in "aeiou"


def _base(rng: random.Random, made_up_share: float) -> str:
    return made_up_word(rng) if rng.random() < made_up_share else rng.choice(BASES)


def _nouns() -> list[tuple[str, str]]:
    pairs = [(noun, kind) for kind, text in MORE_NOUNS.items() for noun in text.split()]
    for kind, text in NOUN_OBJECTS.items():
        text = " ".join(text.split())
        for phrase in _MULTIWORD:
            if phrase in text:
                pairs.append((phrase, kind))
                text = text.replace(phrase, "")
        pairs += [(noun, kind) for noun in text.split()]
    return sorted(set(pairs))


NOUNS = _nouns()
_BONDS = [tuple(b.strip().split("|")) for b in " ".join(BONDS.split()).split(";")]
_GOING = [tuple(b.strip().split("|")) for b in " ".join(GOING.split()).split(";")]


def _verb(rng: random.Random) -> Relation:
    """{y} VERBED {x}, or VERBS it: who? The verb is made up in one case of five."""
    if rng.random() < 0.25:
        verb = base = rng.choice(AGENT_VERBS)
        participle = IRREGULAR.get(verb, verb)
        present = verb in PRESENT
    else:
        base = _base(rng, 0.27)
        present = rng.random() < 0.25
        participle = _past(base)
        verb = _present(base) if present else participle
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
    do = "does" if verb == _present(base) else "did"
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


GIVEN = """awarded given sold sent lent promised dedicated offered shown entrusted donated delivered handed
left returned presented granted assigned addressed devoted lost""".split()


def _that(rng: random.Random) -> Relation:
    """The NOUN that VERBS {x} is {y}: a noun is asked for, by a clause."""
    noun = rng.choice(english()) if rng.random() < 0.5 else rng.choice(NOUNS)[0]
    if rng.random() < 0.35:
        phrase, _ = rng.choice(_GOING)
        base, preposition = phrase.split()
        verb = f"{_present(base)} {preposition}"
    else:
        base = _base(rng, 0.2)
        verb = _present(base) if rng.random() < 0.6 else _past(base)
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
        base = _base(rng, 0.3)
    else:
        base = {"studie": "study", "teache": "teach"}.get(cut := rng.choice(LIKINGS)[:-1], cut)
    verb = _present(base)
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
    base = _base(rng, 0.3)
    verb = _past(base)
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
    phrase, ask = rng.choice(_GOING)
    base, preposition = phrase.split()
    if rng.random() < 0.15:
        base, ask = made_up_word(rng), "what"
    wh, verb = ask.capitalize(), _present(base)
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
    phrase, ask = rng.choice(_BONDS)
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
    things = made_up_word(rng) + "s" if rng.random() < 0.2 else rng.choice(_COUNTED)
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


_COUNTED = """rooms doors pages members employees children stores wheels floors players legs students
seats windows bridges rivers towers chapters branches islands moons""".split()


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
