"""The words that relations are put together from: verbs, their forms, nouns and what they name."""

from __future__ import annotations

import random

from qf.demo.names import made_up_word

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
_GOING = """live in|where;work at|where;work for|who;depart from|where;belong to|who;flow through|where;
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
_BONDS = """married to|who;the son of|who;the daughter of|who;the brother of|who;the wife of|who;named after|who;
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
GIVEN = """awarded given sold sent lent promised dedicated offered shown entrusted donated delivered handed
left returned presented granted assigned addressed devoted lost""".split()
COUNTED = """rooms doors pages members employees children stores wheels floors players legs students
seats windows bridges rivers towers chapters branches islands moons""".split()


def past_of(base: str) -> str:
    """The past form of a verb, and its participle."""
    if base in IRREGULAR_PASTS:
        return IRREGULAR_PASTS[base]
    if base in DOUBLED:
        return base + base[-1] + "ed"
    if base.endswith("e"):
        return base + "d"
    return base[:-1] + "ied" if _ends_in_y(base) else base + "ed"


def present_of(base: str) -> str:
    """A verb as "he" and "she" take it."""
    if base.endswith(("s", "x", "ch", "sh", "o")):
        return base + "es"
    return base[:-1] + "ies" if _ends_in_y(base) else base + "s"


def _ends_in_y(base: str) -> bool:
    return base.endswith("y") and base[-2:-1] not in "aeiou"


def base_of(rng: random.Random, made_up_share: float) -> str:
    """A regular verb, made up in this share of cases."""
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
BONDS = [tuple(b.strip().split("|")) for b in " ".join(_BONDS.split()).split(";")]
GOING = [tuple(b.strip().split("|")) for b in " ".join(_GOING.split()).split(";")]
