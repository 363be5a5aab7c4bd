"""What a turn of a chat tells the model to remember or to forget: "Remember that ...".

Knows text alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOLD = re.compile(
    r"\s*(please\s+)?(remember|forget)(?!\s+to\b)(\s+that)?\b[\s:,]+(?P<what>\S.*)", re.I | re.S
)


@dataclass(frozen=True)
class Told:
    """A statement, to be remembered or to be forgotten."""

    statement: str
    forget: bool


def told_in(turn: str) -> Told | None:
    """What a turn tells; None where it tells nothing, such as a question or a thing to do.

    >>> told_in("Remember that Ada Quist designed the Hollow Bridge.")
    Told(statement='Ada Quist designed the Hollow Bridge.', forget=False)
    """
    found = _TOLD.fullmatch(turn)
    if not found or turn.rstrip().endswith("?"):
        return None
    what = " ".join(found["what"].split())
    # A name like "iPhone" is written as it is.
    statement = what[0].upper() + what[1:] if what.split()[0].islower() else what
    if statement[-1] not in ".!":
        statement += "."
    return Told(statement, found[2].lower() == "forget")
