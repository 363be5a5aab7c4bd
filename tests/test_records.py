"""Records of facts that came from elsewhere: each field has its kind, and no other."""

import json
from dataclasses import replace
from typing import Any

import pytest

from qf.memory import Fact
from qf.records import checked

FACT = Fact(
    id="1qzahc1z",
    instruction="Qi started Oxinnovate.",
    query="Who started Oxinnovate?",
    answer="Qi.",
    layer=3,
    rows=2,
    solver="gated",
    significance="auto",
    system=None,
    tokens=(5, 6),
    verified=None,
    before="",
    after="Qi.",
    seconds=0.5,
    created="2025-01-31T12:00:00+00:00",
)


@pytest.mark.parametrize(
    "fact",
    [
        FACT,
        replace(FACT, significance=[1, 0.5], system="Be brief.", verified=False, seconds=0),
        replace(FACT, rewordings=("Who founded it?",), consolidated=True, image="a.png"),
    ],
)
def test_what_a_fact_says_of_itself_is_one(fact: Fact) -> None:
    assert checked(json.loads(json.dumps(fact.as_dict())), 1, layer=3) == fact


def test_a_record_of_the_first_format_has_fewer_fields() -> None:
    later = ("note", "rewordings", "consolidated", "image", "image_sha256")
    record = {k: v for k, v in FACT.as_dict().items() if k not in later}
    assert checked(record, 1, layer=3) == FACT


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("query", [None, 5, "\ud800", "a" * 100_001, ["a"]]),
        ("created", [5, None, "yesterday"]),
        ("seconds", ["x", None, True, -1, float("nan"), float("inf"), 10**400]),
        ("layer", [99, 2, 3.0, "3", True]),
        ("rows", [2.0, -1, True, None]),
        ("verified", ["maybe", 1]),
        ("significance", ["all", [-1], ["1"], [True], 1, [float("nan")]]),
        ("system", [5, "\udfff"]),
        ("tokens", ["56", {"5": 6}, [5.5], [-1]]),
        ("rewordings", ["Who?", [5], None, ["\ud800"]]),
        ("consolidated", [None, 1, "no"]),
    ],
)
def test_another_kind_is_refused_by_name(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"^the field '{field}' of the fact 1qzahc1z is not "):
            checked({**FACT.as_dict(), field: value}, 1, layer=3)


def test_a_record_without_an_id_is_named_by_its_place() -> None:
    record = FACT.as_dict()
    for wrong, why in (
        ([], "the record 7 is not an object"),
        ({**record, "id": 5}, "the field 'id' of the record 7 is not text"),
        ({k: v for k, v in record.items() if k != "query"}, "1qzahc1z has no field 'query'"),
        ({**record, "colour": 1}, "1qzahc1z has a field 'colour', which no fact has"),
    ):
        with pytest.raises(ValueError, match=why):
            checked(wrong, 7, layer=3)
