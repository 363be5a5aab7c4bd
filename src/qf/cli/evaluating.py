"""The command `eval`: how well facts are learned, by several methods, as tables of percents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from qf.cli.opening import quieten
from qf.cli.options import Choice, Json, choosing, example, shared, valid_text
from qf.cli.say import columns, progress, say, say_json, say_table

if TYPE_CHECKING:
    from qf.evaluate.run import Report

commands = typer.Typer()

# There is no memory here that could name the layer, so the variable is read as an option is.
Layer = Annotated[
    int | None,
    shared(
        "--layer", envvar="QF_LAYER", help="Decoder layer to teach; default: the paper's depth."
    ),
]
TITLES = {
    "efficacy": "right after",
    "retained": "same words",
    "paraphrase": "other words",
    "locality": "unchanged",
    "kept": "kept right",
    "score": "score",
    "seconds_per_fact": "s per fact",
    "peak_memory_mb": "MB more",
}


@commands.command(
    "eval",
    epilog=example(
        "qf eval generated --facts 100 --method none,prompt,joint,gated",
        "qf eval counterfact.json --facts 1000 --out counterfact.jsonl",
    ),
)
@choosing("calibrate", "system", layer=Layer)
def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A file of CounterFact, zsRE or QAEdit, or the word 'generated': made-up facts.",
            callback=valid_text,
        ),
    ],
    facts: Annotated[int, typer.Option("--facts", help="How many facts to teach.")] = 100,
    method: Annotated[
        str, typer.Option("--method", help="Some of these, with commas between them.")
    ] = "none,prompt,paper,joint,gated",
    seed: Annotated[
        int, typer.Option("--seed", help="Which made-up facts; of a file, the first are taken.")
    ] = 1,
    immediate: Annotated[
        bool,
        typer.Option("--immediate", help="Measure efficacy right after each fact; takes longer."),
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--out", help="Keep what is done in this file, and go on from it."),
    ] = None,
    *,
    choice: Choice,
    as_json: Json = False,
) -> None:
    """Measure how well facts are learned: by several methods, the same facts, in percent.

    Works on a memory of its own; what you taught is left alone.
    """
    with progress("Reading the data ...") as status:
        quieten()
        from qf.evaluate import run
        from qf.evaluate.journal import Journal
        from qf.evaluate.material import prepare
        from qf.loading import load_pair

        methods = run.methods_of(method)
        journal = Journal(save) if save else None
        material = prepare(data, facts, seed)
        status.update("Loading the model ...")
        loaded = load_pair(choice.model, **choice.loading())
        settings = run.Settings(choice.layer, choice.system, choice.calibrate, immediate)
        report = run.evaluate(loaded, material, methods, settings, journal, status.update)
    if as_json:
        say_json(report.as_dict())
    else:
        _say_report(report)


def _say_report(report: Report) -> None:
    titles = {name: t for name, t in TITLES.items() if report.immediate or name != "efficacy"}
    say_table(_table("method", titles, report))
    say()
    say_table(_as_published(report))
    say()
    say(f"{report.facts} facts of {report.data}, {report.model} model; percent.", "dim")
    for reason, count in report.skipped.items():
        say(f"Left out: {count} ({reason}).", "yellow")
    for method, figures in report.methods.items():
        if figures["not_learned"]:
            say(f"Not learned by {method}: {figures['not_learned']}.", "yellow")


def _as_published(report: Report) -> Table:
    from qf.evaluate.published import NAMES

    return _table("as published", {name: name.replace("_", " ") for name in NAMES}, report)


def _table(first: str, titles: dict[str, str], report: Report) -> Table:
    """A row for each method, with the figures that the titles name."""
    table = columns(first)
    for title in titles.values():
        table.add_column(title, justify="right")
    for method, figures in report.methods.items():
        table.add_row(method, *(_figure(name, figures.get(name)) for name in titles))
    return table


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if name == "seconds_per_fact" else f"{value:.1f}"
