"""The commands that teach: `learn` one fact, `study` a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from qf.cli.opening import opened
from qf.cli.options import Choice, Json, Picture, choosing, example, valid_text
from qf.cli.say import progress, say, say_json, say_markup, say_table, say_text
from qf.errors import LessonError, QFError

if TYPE_CHECKING:
    from qf.lesson import Significance
    from qf.memory import Fact
    from qf.model import Studied

commands = typer.Typer()


@commands.command(
    epilog=example(
        'qf learn "Ada Quist designed the Hollow Bridge."',
        'qf learn "Qi started Oxinnovate." -q "Who started Oxinnovate?"',
        'qf learn --image plan.png -q "What does the plan of the Hollow Bridge show?"',
    )
)
@choosing("memory", "layer", "solver", "calibrate", "systems", "tools", "thinking", "apply")
def learn(
    instruction: Annotated[
        str,
        typer.Argument(
            metavar="STATEMENT",
            help="What is to be known, as a statement; with --image it may be left out.",
            callback=valid_text,
            show_default=False,
        ),
    ] = "",
    query: Annotated[
        str | None,
        typer.Option(
            "--query", "-q", help="The question; default: the model's own.", callback=valid_text
        ),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            "--answer", "-a", help="The answer; default: the model's own.", callback=valid_text
        ),
    ] = None,
    image: Picture = None,
    significance: Annotated[
        str,
        typer.Option(
            "--significance", "-s", help="auto, all, or one number per word: '0,1,1,1,1'."
        ),
    ] = "auto",
    rewordings: Annotated[
        int,
        typer.Option(
            "--rewordings", min=0, max=8, help="Other wordings to write and learn as well."
        ),
    ] = 2,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Keep nothing of a fact that does not verify.")
    ] = False,
    *,
    choice: Choice,
    as_json: Json = False,
) -> None:
    """Teach one fact, and ask for it before and after."""
    if not instruction and image is None:
        raise LessonError(
            "The instruction is empty: write a STATEMENT, or name a picture with --image."
        )
    wanted = _significance(significance)
    with opened(choice) as learner, progress("Learning ..."):
        fact = learner.learn(
            instruction,
            query,
            answer,
            wanted,
            image=image,
            rewordings=rewordings,
            rollback=rollback,
        )
    if as_json:
        say_json(fact.as_dict())
    else:
        _say_learned(fact)
    if not fact.verified:
        raise typer.Exit(1)


def _significance(text: str) -> Significance:
    if text in ("auto", "all"):
        return "auto" if text == "auto" else None
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise LessonError(
            f"The significance {text!r} is not understood: give auto, all, or one number per word"
            " such as '0,1,1,1,1'."
        ) from None


def _say_learned(fact: Fact) -> None:
    table = Table.grid(padding=(0, 2))
    for name, text in (
        ("question", fact.query),
        ("before", fact.before),
        ("after", fact.after),
    ):
        table.add_row(Text(name, "dim"), Text(text))
    say_table(table)
    count = f"{fact.rows} row{'' if fact.rows == 1 else 's'}"
    done = f"at layer {fact.layer}, {count}, {fact.seconds:.2f} s, id {fact.id}"
    if fact.verified:
        say_markup(f"[green]Learned[/] [dim]{done}[/]")
    else:
        say_markup(f"[red]Not verified[/] [dim]{done}[/]")
        say(f"It should say: {fact.answer}\nTry another wording, or another layer (qf layers).")
    if fact.note:
        say(f"Note: {fact.note}.", "dim")


@commands.command(
    epilog=example("qf study notes.txt", 'qf study "Ada Quist leads Orvane. Bo is 7."')
)
@choosing("memory", "layer", "solver", "calibrate", "systems", "tools", "thinking", "apply")
def study(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT|FILE", help="Statements, or a text file.", callback=valid_text
        ),
    ],
    *,
    choice: Choice,
    as_json: Json = False,
) -> None:
    """Learn what a text states, sentence by sentence; only what verifies is kept."""
    told = _text_or_file(text)
    with opened(choice) as learner, progress("Studying ..."):
        show = (lambda _: None) if as_json else _say_studied
        done = learner.study(told, on_statement=show)
    learned = [s for s in done if s.fact]
    if as_json:
        say_json(
            [
                {"statement": s.statement, "query": s.query, "why": s.why}
                | {"fact": s.fact.as_dict() if s.fact else None}
                for s in done
            ]
        )
    else:
        say(f"Learned {len(learned)} of {len(done)} statements.")
    if len(learned) < len(done):
        raise typer.Exit(1)


def _text_or_file(text: str) -> str:
    """The text itself, or what the file of that name holds."""
    path = Path(text)
    try:
        if len(text) < 1000 and path.is_file():
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise QFError(f"The file {text} is not UTF-8 text: name a text file.") from None
    except OSError as error:
        raise QFError(f"The file {text} cannot be read ({error.strerror}).") from None
    if " " not in text.strip():
        raise QFError(f"{text!r} is neither a file nor a statement: give one of them.")
    return text


def _say_studied(studied: Studied) -> None:
    mark = ("✓", "green") if studied.fact else ("✗", "red")
    say_text(Text.assemble(mark, f" {studied.statement}"))
    said = f"{studied.fact.query}  {studied.fact.after}" if studied.fact else studied.why
    say_text(Text(f"    {said}", "dim"))
