"""The command `demo`: the paper's Table 1, step by step."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from qf.cli.opening import opened
from qf.cli.options import Choice, Json, Solver, choosing, example
from qf.cli.say import say, say_json, say_text

if TYPE_CHECKING:
    from qf.demo.table import Outcome
    from qf.model import Model

commands = typer.Typer()

HEADINGS = {
    1: "Before learning, weights W",
    4: 'After learning "Qi started Oxinnovate." in one step, weights W′',
    7: "After learning where Oxinnovate is as well, weights W″",
}


@commands.command(epilog=example("qf demo", "qf demo --model Qwen/Qwen2.5-1.5B-Instruct"))
@choosing("layer", "solver", "apply", preset=Choice(solver=Solver.paper))
def demo(*, choice: Choice, as_json: Json = False) -> None:
    """Watch a model learn its first fact: the eight steps of the paper's Table 1.

    Works on a memory of its own; what you taught is left alone.
    """
    with (
        tempfile.TemporaryDirectory() as scratch,
        opened(replace(choice, memory=Path(scratch) / "memory")) as teacher,
    ):
        from qf.demo import table

        show = (lambda _: None) if as_json else _say_step
        if not as_json:
            _say_title(teacher)
        outcomes = table.run(teacher, show)
    passed = all(o.passed for o in outcomes)
    if as_json:
        say_json({"steps": [o.as_dict() for o in outcomes], "passed": passed})
    else:
        right = sum(o.passed for o in outcomes)
        say()
        say(f"{right} of {len(outcomes)} steps as expected.", "bold green" if passed else "red")
        if passed:
            say('Now your own: qf learn "Ada Quist designed the Hollow Bridge."')
    if not passed:
        raise typer.Exit(1)


def _say_title(model: Model) -> None:
    count = model.transformer.num_parameters()
    size = f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
    say()
    say("Table 1 of the QF paper (arXiv 2507.04300)", "bold")
    say(f"{model.name} model, {size} parameters, taught at layer {model.layer}.")


def _say_step(outcome: Outcome) -> None:
    if outcome.step in HEADINGS:
        say()
        say(HEADINGS[outcome.step], "bold cyan")
    mark = ("✓", "green") if outcome.passed else ("✗", "red")
    told = f"  (told: {outcome.instruction})" if outcome.instruction else ""
    asked = Text(f" {outcome.step}  {outcome.weights:<2}  {outcome.query}").append(told, "dim")
    answered = Text.assemble("      ", mark, "  ", (outcome.answer, "bold"))
    for line in (asked, answered, Text(f"         expected: {outcome.expected}", "dim")):
        say_text(line)
