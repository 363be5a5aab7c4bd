"""The commands that look and change nothing: `models` that can be taught, and `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from qf.cli.opening import quieten
from qf.cli.options import Choice, Json, choosing, example
from qf.cli.say import columns, progress, say, say_json, say_table, say_text

if TYPE_CHECKING:
    from qf.doctor import Report

commands = typer.Typer()


@commands.command(epilog=example("qf models", "qf models --json"))
def models(as_json: Json = False) -> None:
    """List the architectures that can be taught, and those that cannot, with the reason."""
    with progress("Looking ..."):
        quieten()
        from qf.families import REFUSED, SUPPORTED

    rows: list[dict[str, Any]] = [
        {"type": name, "support": "approximate" if f.limits else "exact", "why": f.limits}
        | {"examples": list(f.examples)}
        for name, f in sorted(SUPPORTED.items())
    ]
    rows += [
        {"type": name, "support": "refused", "why": why, "examples": []}
        for name, why in sorted(REFUSED.items())
    ]
    others = (
        "Any other type is taken if a short pass shows that it is built like one that is listed."
    )
    if as_json:
        say_json({"models": rows, "others": others})
    else:
        _say_models(rows)
        say(others)


def _say_models(rows: list[dict[str, Any]]) -> None:
    table = columns("type", "support", "such as", overflow="fold")
    colours = {"exact": "green", "approximate": "yellow"}
    for row in rows:
        if row["examples"]:
            support = Text(row["support"], colours[row["support"]])
            table.add_row(row["type"], support, ", ".join(row["examples"]))
    say_table(table)
    say()
    for support, why in dict.fromkeys((row["support"], row["why"]) for row in rows if row["why"]):
        names = ", ".join(row["type"] for row in rows if row["why"] == why)
        say(f"{support.capitalize()}: {names}: {why}.")


@commands.command(epilog=example("qf doctor", "qf doctor --model Qwen/Qwen2.5-1.5B-Instruct"))
@choosing("memory", "layer", "system")
def doctor(*, choice: Choice, as_json: Json = False) -> None:
    """Look whether all is well, and teach a fact as a test; for bug reports, and nothing private.

    Your memory is read and left alone.
    """
    with progress("Looking ...") as status:
        quieten()
        from qf.doctor import examine

        report = examine(
            choice.model,
            memory=choice.memory,
            layer=choice.layer,
            system=choice.system,
            loading=choice.loading(),
            on_step=lambda name: status.update(f"Looking at: {name} ..."),
        )
    if as_json:
        say_json(report.as_dict())
    else:
        _say_findings(report)
    if not report.healthy:
        raise typer.Exit(1)


def _say_findings(report: Report) -> None:
    colours = {"ok": "green", "warning": "yellow", "problem": "red"}
    for found in report.findings:
        status = Text(f"{found.status:<8}", colours[found.status])
        say_text(Text.assemble(status, f"{found.name:<12}", found.text))
        if found.remedy:
            say(f"{'':<20}{found.remedy}", "dim")
