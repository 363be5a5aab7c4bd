"""What the record of a fact may say in a file that came from elsewhere: the kind of each field.

Knows no rows and no models: whether a fact fits one is seen when it comes in.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from datetime import datetime
from typing import Any

from qf.memory import Fact, fact_of

LONGEST = 100_000  # characters of a text
ID = re.compile(r"[0-9a-z]{1,32}")  # of a fact: it becomes the name of a directory


def checked(record: Any, number: int, layer: int) -> Fact:
    """The fact of a record, the file's `number`-th, that was taught at `layer`.

    Raises ValueError that names the record, by its id where it has one, and the field.
    """
    if not isinstance(record, dict):
        raise ValueError(f"the record {number} is not an object")
    held = record.get("id")
    named = isinstance(held, str) and ID.fullmatch(held)
    which = f"the fact {held}" if named else f"the record {number}"
    kinds = {**_KINDS, "layer": (_is(layer), f"{layer}, the layer of the file")}
    needed = [f.name for f in fields(Fact) if f.default is MISSING]
    if missing := [name for name in needed if name not in record]:
        raise ValueError(f"{which} has no field {missing[0]!r}")
    for name, value in record.items():
        if name not in kinds:
            raise ValueError(f"{which} has a field {name[:40]!r}, which no fact has")
        is_one, what = kinds[name]
        if not is_one(value):
            raise ValueError(f"the field {name!r} of {which} is not {what}")
    return fact_of(record)


def _text(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > LONGEST:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no tokenizer reads
        return False
    return True


def _number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= sys.float_info.max


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _time(value: Any) -> bool:
    try:
        datetime.fromisoformat(value)
    except (ValueError, TypeError):
        return False
    return True


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _significance(value: Any) -> bool:
    return value is None or value == "auto" or _list(_number)(value)


def _is(wanted: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and value == wanted


def _list(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_TEXT = _text, f"text of up to {LONGEST:,} valid characters"
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("id", "instruction", "query", "answer", "solver", "before", "after"), _TEXT),
    **dict.fromkeys(("note", "image", "image_sha256"), _TEXT),
    "rows": (_whole, "a whole number from 0 up"),
    "significance": (_significance, "'auto', null or a list of numbers from 0 up"),
    "system": (_or_none(_text), f"null or {_TEXT[1]}"),
    "tokens": (_list(_whole), "a list of tokens"),
    "verified": (_or_none(_flag), "true, false or null"),
    "seconds": (_number, "a number from 0 up"),
    "created": (_time, "a time such as 2025-01-31T12:00:00+00:00"),
    "rewordings": (_list(_text), "a list of valid texts"),
    "consolidated": (_flag, "true or false"),
}
