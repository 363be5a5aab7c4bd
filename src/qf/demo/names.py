"""Made-up names of every shape: people, places, companies, things, codes, dates, numbers.

A model learns to copy the strings that it has seen copied, so the generator is wild on purpose:
syllables, random letters, capitals, digits, hyphens, apostrophes, ordinary words and several of
these in a row. It knows nothing of facts or wordings.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from functools import cache
from importlib.resources import files

RESERVED = re.compile(r"(?i:oxinn|pku|\bqi\b)|Qi")
"""Strings kept out of everything generated, so that the paper's example is truly new."""

_ONSETS = "b c d f g h j k l m n p q r s t v w x y z ch sh th br cr dr fr gr kr pl pr st tr qu sk zh ts ph"
_VOWELS = "a e i o u ai ea ee ia io ou y oa au"
_CODAS = "n r l s t m nd rt x k g p sh ng ck tt ll ss z"
ONSETS, VOWELS, CODAS = _ONSETS.split(), _VOWELS.split(), _CODAS.split()

FIRST_NAMES = """Jack Anna Li Maria John Tom Eva Omar Wei Sara Paul Nina Max Lucy Ivan Rosa Hugo Mia
Leo Amina Yuki Carlos Elena Fatima Henrik Ingrid Jorge Kofi Lars Mei Nadia Olga Pedro Rahul Sofia
Tariq Uma Victor Wanda Xavier Yara Zoe Bo Wu Xi Yu Jo Al Ed Aya Ben Chloe Dmitri Emil Farah Greta
Hana Isak Jun Kenji Lena Marco Noor Oscar Priya Quentin Ravi Selma Theo Ulla Vera Willem Ada Bruno
Clara Diego Edith Felix Gita Hassan Iris Jonas""".split()

WORDS = """blue river stone garden silver north park tower bridge green hill light harbor science
market forest golden moon iron valley castle ocean summer winter red fire star cloud eagle wolf lake
field orange crystal dragon royal old new great little central west east south spring night morning
paper glass copper velvet thunder shadow mirror rocket pepper lemon maple cedar falcon tiger rabbit
happy quiet brave lucky hidden broken frozen hollow rising open long broad white black grey amber
coral marble meadow canyon island desert temple palace station museum library school hotel street
square gate lane road avenue campus center institute academy tech data logic signal quantum solar
bakery cafe studio house hall club union works motors energy foods media games health sound vision
""".split()
PLACES = """Science Park|Tech Campus|Business Center|Harbor|Old Town|Industrial Park|Main Street|Innovation
Hub|Research Park|University Campus|Market Square|Central Station|Medical Center|Trade Tower|Software
Park|Garden District|Airport|Castle Hill|Business Park|West Gate""".replace("\n", " ").split("|")
CITIES = """Beijing London Paris Tokyo Berlin Madrid Rome Lagos Cairo Lima Oslo Vienna Mumbai Sydney
Toronto Chicago Boston Seoul Bangkok Nairobi Athens Dublin Prague Warsaw Lisbon Shanghai Munich Milan
Delhi Istanbul Havana Quito Dakar Accra Hanoi Manila Zurich Geneva Oxford Dallas Denver""".split()
SUFFIXES = """tech soft corp labs works ware sys nova net gen dyne vate ly ify mart bank flow mind hub
ix on ex ium ia land stan ville burg ton ford mouth berg""".split()
MONTHS = """January February March April May June July August September October November December""".split()
COLORS = (
    "red blue green yellow purple orange black white brown pink grey turquoise silver gold".split()
)
JOBS = """doctor teacher painter singer lawyer farmer pilot writer dentist chef nurse actor baker judge
poet sailor engineer chemist plumber gardener tailor librarian architect dancer soldier carpenter
physicist scientist musician composer explorer philosopher politician mathematician""".split()
LANGUAGES = """English French German Spanish Chinese Japanese Russian Arabic Hindi Italian Korean Dutch
Turkish Polish Greek Swedish Danish Finnish Hungarian Czech Thai Vietnamese Swahili Portuguese""".split()
THINGS = """phones cars shoes software watches boats robots chips toys bikes lamps books games paint
cameras engines coffee tea bread cheese rice soup honey chess tennis football piano violin guitar
drums stamps coins maps hats gloves chairs tables clocks knives candles soap glass tiles bricks
pancakes apples oranges cherries noodles salad horses dogs cats birds roses tulips poems songs""".split()


WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
COUNTS = "two three four five six seven eight nine ten eleven twelve twenty thirty".split()
STREETS = "Street Lane Road Avenue Square Way Drive Court Alley Row Terrace Place".split()
SPOTS = """drawer shelf cupboard box kitchen cellar attic garage hall table desk bag safe closet garden
shed office library basement fridge stairs window door lobby yard locker car case counter bench corner
cabinet wardrobe bedroom bathroom balcony fireplace sofa piano bed lamp tray barn stable""".split()
ANIMALS = """dog cat horse cow goat sheep pig hen duck goose parrot hamster rabbit turtle lizard snake frog
fish goldfish canary owl fox wolf bear otter beaver hedgehog squirrel mouse rat donkey llama camel tiger
lion leopard elephant giraffe monkey penguin seal whale dolphin shark bee ant spider snail crab""".split()
FOODS = """soup bread cheese pizza rice pasta salad curry stew sushi pancakes waffles dumplings noodles
porridge omelette lasagne goulash risotto pie cake cookies pudding chocolate honey jam butter yoghurt apples
pears plums grapes mangoes bananas cherries berries carrots onions beans peas lentils potatoes mushrooms
spinach tomatoes pumpkin garlic pepper salt ginger mint basil tea coffee milk cider lemonade""".split()
MATERIALS = """wood oak pine steel iron copper brass bronze silver gold glass clay stone marble granite brick
concrete paper cotton wool silk linen leather rubber plastic wax ivory bamboo straw tin lead slate""".split()
SPORTS = """tennis football chess hockey rugby cricket golf judo karate boxing fencing rowing sailing
swimming cycling running skiing skating climbing archery basketball volleyball handball badminton""".split()
INSTRUMENTS = """piano violin cello guitar flute trumpet trombone harp drums organ clarinet oboe bassoon
saxophone banjo lute accordion viola tuba mandolin ukulele horn""".split()


def _syllable(rng: random.Random, closed: bool) -> str:
    return rng.choice(ONSETS) + rng.choice(VOWELS) + (rng.choice(CODAS) if closed else "")


def _syllables(rng: random.Random) -> str:
    n = rng.choice((1, 1, 2, 2, 2, 2, 3))
    return "".join(_syllable(rng, rng.random() < 0.3) for _ in range(n)).capitalize()


def _letters(rng: random.Random) -> str:
    """Letters with no pattern at all, one in two a vowel or not by chance."""
    n = rng.choice((2, 2, 3, 3, 4, 5, 6, 7, 8, 9))
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzaeiouaeio") for _ in range(n)).capitalize()


def _capitals(rng: random.Random) -> str:
    return "".join(
        rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.choice((2, 3, 3, 4, 5)))
    )


def _camel(rng: random.Random) -> str:
    parts = [rng.choice((_syllables, _letters, _ordinary))(rng) for _ in range(2)]
    return "".join(parts) if rng.random() < 0.7 else parts[0] + parts[1].lower()


@cache
def english() -> tuple[str, ...]:
    """The ordinary English words of `words.txt`, in lower case."""
    return tuple(files("qf.demo").joinpath("words.txt").read_text(encoding="utf-8").split())


def _english(rng: random.Random) -> str:
    return rng.choice(english()) if rng.random() < 0.7 else rng.choice(WORDS)


def _ordinary(rng: random.Random) -> str:
    return _english(rng).capitalize()


@cache
def _next_letters() -> dict[str, str]:
    """Which letters follow two letters in names and words that exist; "^" begins, "$" ends."""
    following: dict[str, list[str]] = defaultdict(list)
    names = [*FIRST_NAMES, *CITIES, *(w for w in english() if len(w) > 4), *_real_names()]
    for name in names:
        text = f"^{name.casefold()}$"
        for i in range(len(text) - 1):
            following[text[max(0, i - 1) : i + 1]].append(text[i + 1])
    return {context: "".join(letters) for context, letters in following.items()}


def _real_names() -> list[str]:
    """The words of the facts that are known, so that names that begin like them end otherwise."""
    table = files("qf.demo").joinpath("facts.csv").read_text(encoding="utf-8")
    words = re.findall(r"\b[A-Z][a-z]{3,}\b", table)
    return [w for w in words if w.isascii()]


def _likely(rng: random.Random) -> str:
    """A name that looks as if it existed: letters follow each other as in real ones."""
    following = _next_letters()
    while True:
        text = "^"
        while text[-1] != "$" and len(text) < 14:
            text += rng.choice(following[text[-2:]])
        name = text.strip("^$")
        if 3 < len(name) < 13:
            return name.capitalize()


def _suffixed(rng: random.Random) -> str:
    stem = rng.choice((_syllables, _letters, _ordinary))(rng)
    return stem + rng.choice(SUFFIXES)


def _digits(rng: random.Random) -> str:
    stem = rng.choice((_capitals, _letters, _syllables))(rng)
    number = str(rng.randint(1, 9999 if rng.random() < 0.3 else 99))
    return rng.choice(
        (f"{stem}{number}", f"{stem}-{number}", f"{number}{stem}", f"{stem} {number}")
    )


def _hyphened(rng: random.Random) -> str:
    return f"{_plain(rng)}-{_plain(rng)}"


def _apostrophe(rng: random.Random) -> str:
    return rng.choice(("O'", "D'", "L'", "K'", "Mc")) + _plain(rng)


def _plain(rng: random.Random) -> str:
    return rng.choice((_syllables, _likely, _likely, _letters, _ordinary))(rng)


_SHAPES = (
    _likely,
    _syllables,
    _letters,
    _capitals,
    _camel,
    _ordinary,
    _suffixed,
    _digits,
    _hyphened,
    _apostrophe,
)
_SHAPE_WEIGHTS = (20, 18, 14, 7, 8, 14, 10, 6, 4, 3)


def _word(rng: random.Random) -> str:
    return rng.choices(_SHAPES, _SHAPE_WEIGHTS)[0](rng)


def _person(rng: random.Random) -> str:
    shape = rng.random()
    if shape < 0.12:
        return _letters(rng)[: rng.randint(2, 4)]
    if shape < 0.30:
        return rng.choice(FIRST_NAMES) if shape < 0.2 else _plain(rng)
    first = rng.choice(FIRST_NAMES) if rng.random() < 0.55 else _plain(rng)
    last = rng.choice((_plain, _plain, _plain, _hyphened, _apostrophe))(rng)
    if rng.random() < 0.06:
        return f"{rng.choice(('Dr.', 'Professor', 'Captain', 'Lady'))} {first} {last}"
    middle = f"{rng.choice('ABCDEFGHJKLMNPRSTVW')}. " if rng.random() < 0.06 else ""
    return f"{first} {middle}{last}"


def _company(rng: random.Random) -> str:
    tail = rng.choice(("", "", "", "", " Group", " Systems", " Labs", " Inc", " & Sons", " Motors"))
    return _word(rng) + tail


def _place(rng: random.Random) -> str:
    shape = rng.random()
    city = rng.choice(CITIES) if rng.random() < 0.4 else _plain(rng)
    if shape < 0.55:
        return city
    spot = f"{_word(rng)} {rng.choice(PLACES) if rng.random() < 0.7 else _ordinary(rng)}"
    if shape < 0.72:
        return spot
    return f"{spot}{rng.choice((', in ', ' in ', ', '))}{city}"


def _work(rng: random.Random) -> str:
    if rng.random() < 0.25:
        return f"{'The ' if rng.random() < 0.4 else ''}{_ordinary(rng)} {_ordinary(rng)}"
    words = [_word(rng) for _ in range(rng.choice((1, 1, 1, 2, 2)))]
    return ("The " if rng.random() < 0.2 else "") + " ".join(words)


def _thing(rng: random.Random) -> str:
    shape = rng.random()
    if shape < 0.45:
        return rng.choice(THINGS)
    if shape < 0.7:
        return f"{_english(rng)} {rng.choice(THINGS)}"
    if shape < 0.85:
        return _english(rng) if rng.random() < 0.6 else f"{_english(rng)} {_english(rng)}"
    return _word(rng) if shape < 0.93 else _word(rng).lower()


def _title(rng: random.Random) -> str:
    """A title as books and films have them: Salt on the Stairs, A Quiet Harbor, The Last Spoon."""
    a, b = _ordinary(rng), _ordinary(rng)
    link = rng.choice(
        ("on the", "of the", "in the", "and the", "for a", "of", "and", "without", "under", "at")
    )
    shape = rng.random()
    if shape < 0.35:
        return f"{rng.choice(('', 'The ', 'A '))}{a} {link} {b}"
    if shape < 0.6:
        return f"{rng.choice(('The', 'My', 'A', 'No', 'Our', 'Every'))} {a}"
    if shape < 0.85:
        return f"{rng.choice(('The ', '', 'A '))}{a} {b}"
    return f"{a} {link} {_plain(rng)}"


def _time(rng: random.Random) -> str:
    hour, minute = (
        rng.randint(1, 12),
        rng.choice(("", ":00", ":15", ":30", ":45", f":{rng.randint(0, 59):02}")),
    )
    if rng.random() < 0.3:
        return f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}"
    tail = rng.choice(
        (" am", " pm", " am", " pm", "am", "pm", " o'clock", " in the morning", " in the evening")
    )
    return "noon" if rng.random() < 0.04 else f"{hour}{'' if 'clock' in tail else minute}{tail}"


def _price(rng: random.Random) -> str:
    amount = f"{rng.randint(1, 10 ** rng.choice((1, 2, 3, 4)))}"
    if rng.random() < 0.35:
        amount += f".{rng.randint(0, 99):02}"
    if rng.random() < 0.4:
        return rng.choice("$€£") + amount
    return f"{amount} {rng.choice(('dollars', 'euros', 'pounds', 'francs', 'cents', 'yen', 'crowns', 'rupees'))}"


def _decimal(rng: random.Random) -> str:
    return f"{rng.randint(0, 10 ** rng.choice((1, 2, 3)))}.{rng.randint(0, 10 ** rng.choice((1, 1, 2)) - 1)}"


def _duration(rng: random.Random) -> str:
    units = rng.choice(
        ("minutes", "hours", "days", "weeks", "months", "years", "seconds", "nights")
    )
    return f"{rng.choice((str(rng.randint(2, 99)), rng.choice(COUNTS)))} {units}"


def _phone(rng: random.Random) -> str:
    group = [str(rng.randint(10, 9999)) for _ in range(rng.choice((1, 2, 2, 3)))]
    return rng.choice(("", "", "+", "0")) + rng.choice((" ", "-", " ")).join(group)


def _address(rng: random.Random) -> str:
    street = f"{_ordinary(rng) if rng.random() < 0.6 else _plain(rng)} {rng.choice(STREETS)}"
    return f"{rng.randint(1, 400)} {street}" if rng.random() < 0.7 else street


def _contact(rng: random.Random) -> str:
    name = _plain(rng).lower()
    site = f"{_plain(rng).lower()}.{rng.choice(('com', 'org', 'net', 'io', 'de', 'edu'))}"
    return f"{name}@{site}" if rng.random() < 0.6 else site


def _spot(rng: random.Random) -> str:
    """Where things lie about the house: the blue drawer, the shelf behind the door, room 12."""
    shape = rng.random()
    if shape < 0.2:
        return f"{rng.choice(('room', 'hall', 'building', 'locker', 'aisle', 'gate', 'bay'))} {_code(rng) if rng.random() < 0.3 else rng.randint(1, 99)}"
    first = (
        f"the {rng.choice(SPOTS)}" if shape < 0.5 else f"the {_english(rng)} {rng.choice(SPOTS)}"
    )
    if shape > 0.85:
        first += f" {rng.choice(('behind', 'under', 'beside', 'near', 'in', 'above'))} the {rng.choice(SPOTS)}"
    return first


def _group(rng: random.Random) -> str:
    """A team, a band, a club, a crew."""
    shape = rng.random()
    if shape < 0.4:
        return f"the {_ordinary(rng) if rng.random() < 0.6 else _plain(rng)} {_ordinary(rng)}s"
    if shape < 0.7:
        return f"{_word(rng)} {rng.choice(('FC', 'United', 'Rovers', 'City', 'Quartet', 'Club', 'Trio', 'Society', 'Band', 'Union'))}"
    return _word(rng)


def _year(rng: random.Random) -> str:
    year = str(rng.randint(1400, 2099))
    return year if rng.random() < 0.75 else f"{rng.choice(MONTHS)} {year}"


def _date(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return _year(rng)
    return f"{rng.randint(1, 31)} {rng.choice(MONTHS)} {rng.randint(1400, 2099)}"


def _number(rng: random.Random) -> str:
    return str(rng.randint(2, 10 ** rng.choice((1, 2, 2, 3, 4))))


def _code(rng: random.Random) -> str:
    shape = rng.random()
    if shape < 0.4:
        return str(rng.randint(100, 999999))
    return _digits(rng) if shape < 0.7 else _letters(rng).lower() + str(rng.randint(1, 99))


_KINDS = {
    "person": _person,
    "company": _company,
    "place": _place,
    "country": _word,
    "work": _work,
    "thing": _thing,
    "year": _year,
    "date": _date,
    "number": _number,
    "code": _code,
    "word": _word,
    "english": _english,
    "color": lambda rng: rng.choice(COLORS),
    "job": lambda rng: rng.choice(JOBS),
    "language": lambda rng: rng.choice(LANGUAGES) if rng.random() < 0.8 else _plain(rng),
    "currency": lambda rng: _plain(rng).lower(),
    "title": _title,
    "time": _time,
    "weekday": lambda rng: rng.choice(WEEKDAYS),
    "month": lambda rng: rng.choice(MONTHS),
    "price": _price,
    "decimal": _decimal,
    "duration": _duration,
    "phone": _phone,
    "address": _address,
    "contact": _contact,
    "spot": _spot,
    "group": _group,
    "animal": lambda rng: rng.choice(ANIMALS),
    "food": lambda rng: rng.choice(FOODS),
    "material": lambda rng: rng.choice(MATERIALS),
    "sport": lambda rng: rng.choice(SPORTS),
    "instrument": lambda rng: rng.choice(INSTRUMENTS),
    "first": lambda rng: rng.choice(FIRST_NAMES) if rng.random() < 0.5 else _plain(rng),
    "symbol": lambda rng: _letters(rng)[: rng.randint(1, 3)],
}
KINDS = tuple(_KINDS)


def made_up(rng: random.Random, kind: str) -> str:
    """A name of one of `KINDS` that holds none of the `RESERVED` strings.

    >>> made_up(random.Random(3), "person") == made_up(random.Random(3), "person")
    True
    """
    while True:
        name = _KINDS[kind](rng)
        if not RESERVED.search(name):
            return name


def made_up_word(rng: random.Random) -> str:
    """A lower-case word that no dictionary has, for verbs and nouns never seen before."""
    while True:
        word = "".join(_syllable(rng, rng.random() < 0.4) for _ in range(rng.choice((1, 2, 2))))
        if len(word) > 2 and not RESERVED.search(word):
            return word
