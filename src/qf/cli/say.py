"""What `qf` prints: text, tables and JSON on stdout, progress and errors on stderr.

Knows no command; nothing else below `qf.cli` writes to a stream.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.status import Status

    from qf.memory import Fact

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)


def say(text: str = "", style: str = "") -> None:
    """Print text as it is: what a model or a user wrote is never taken for markup."""
    out.print(text, style=style, markup=False, soft_wrap=True)


def say_text(text: Text) -> None:
    """Print a line of several styles, not folded."""
    out.print(text, soft_wrap=True)


def say_markup(text: str) -> None:
    """Print our own words with rich's markup, folded to the width of a terminal."""
    out.print(text)


def say_stream(pieces: Iterable[str]) -> str:
    """Print pieces of a line as they come, and return them as one."""
    said = []
    for piece in pieces:
        said.append(piece)
        print(piece, end="", flush=True)
    print()
    return "".join(said)


def say_table(table: Table) -> None:
    """Print a table, folded to the width of a terminal; what a program reads is not folded."""
    console = out if out.is_terminal else Console(width=100_000, highlight=False, emoji=False)
    console.print(table)


def columns(*names: str, **more: Any) -> Table:
    """An empty table with these columns; `more` is of all of them, such as `overflow`."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, **more)
    return table


def counted(facts: list[Fact]) -> str:
    """How many facts these are, in words."""
    return f"{len(facts)} fact{'' if len(facts) == 1 else 's'}"


def say_facts(facts: list[Fact]) -> None:
    """Print a line for each fact, below a line that says why."""
    for fact in facts:
        say(f"  {fact.id}  {fact.statement}", "dim")


def say_json(document: Any) -> None:
    """Print one document; in ASCII where stdout takes no Unicode."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(document, ensure_ascii=not unicode, indent=2))


def progress(text: str) -> Status:
    """Show on stderr what is being done, as long as the context is open and on a terminal only."""
    return err.status(text)


def fail(message: str, code: int) -> int:
    """Print the one sentence of a failure on stderr, and return its exit code."""
    err.print(Text.assemble(("qf:", "red"), " ", message), soft_wrap=True)
    return code
