"""The commands about what was taught: `facts` lists it, `forget` and `consolidate` change it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from qf.cli.opening import opened
from qf.cli.options import Choice, Json, Solver, choosing, example
from qf.cli.say import columns, counted, progress, say, say_facts, say_json, say_table
from qf.errors import QFError

commands = typer.Typer()


@commands.command(epilog=example("qf facts --json"))
@choosing("memory", "layer")
def facts(*, choice: Choice, as_json: Json = False) -> None:
    """List what the model was taught."""
    with opened(choice) as teacher:
        known = teacher.facts()
    if as_json:
        say_json([fact.as_dict() for fact in known])
        return
    if not known:
        say('Nothing learned yet. Begin with: qf learn "Ada Quist designed the Hollow Bridge."')
        return
    table = columns()
    for column in ("id", "statement", "question", "answer", "rows", "acts", "verified"):
        table.add_column(column, no_wrap=column in ("id", "rows", "acts"), overflow="fold")
    for fact in known:
        mark = {True: "[green]yes[/]", False: "[red]no[/]", None: "not asked"}[fact.verified]
        texts = (Text(t) for t in (fact.statement, fact.query, fact.answer))
        acts = "in the weights" if fact.consolidated else "gated"
        table.add_row(fact.id, *texts, str(fact.rows), acts, mark)
    say_table(table)


@commands.command(epilog=example("qf forget 1a2b3c4d", "qf forget --all"))
@choosing("memory", "layer")
def forget(
    fact_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="The fact's id, or how it begins.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Forget all facts: the weights are the base's again.")
    ] = False,
    *,
    choice: Choice,
    as_json: Json = False,
) -> None:
    """Forget one fact (or all), as if it had never been taught."""
    if (fact_id is None) is not everything:
        raise QFError("Say what to forget: either an ID (see `qf facts`) or --all.")
    with opened(choice) as teacher:
        if everything:
            count = teacher.forget_all()
            if as_json:
                say_json({"forgotten": count})
            else:
                say(f"Forgot {count} fact{'' if count == 1 else 's'}.")
            return
        fact = teacher.forget(str(fact_id))
    if as_json:
        say_json({"id": fact.id, "forgotten": True})
    else:
        say(f"Forgot {fact.id}: {fact.statement}")


@commands.command(epilog=example("qf consolidate"))
@choosing(
    "memory", "layer", "systems", "tools", "thinking", "apply", preset=Choice(solver=Solver.gated)
)
def consolidate(*, choice: Choice, as_json: Json = False) -> None:
    """Move the facts behind the gate into the weights: all that are still answered there."""
    with opened(choice) as teacher, progress("Consolidating ..."):
        done = teacher.consolidate()
    if as_json:
        moved = {"consolidated": [f.id for f in done.consolidated]}
        stayed = {"gated": [f.id for f in done.gated], "undisturbed": done.undisturbed}
        say_json({**moved, **stayed, "rows": done.rows, "comfortable_rows": done.comfortable})
    else:
        say(f"In the weights: {counted(done.consolidated)}; behind the gate: {len(done.gated)}.")
        say(f"{done.undisturbed:.0%} of everyday questions are answered as before.")
        say_facts(done.gated)
        if done.rows > done.comfortable:
            say(
                f"{done.rows} rows are more than the {done.comfortable} that this model holds"
                " comfortably: forget some, or leave them gated.",
                "yellow",
            )
    if done.gated:
        raise typer.Exit(1)
