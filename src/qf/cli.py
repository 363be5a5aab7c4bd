"""The `qf` command: thin over one `Model`, and the only file that prints or exits.

Exit code 0: done; 1: did not do what was asked, such as a fact that does not verify; 2: bad usage
or input; 130: interrupted. Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qf.errors import LessonError, QFError
from qf.serve.commands import add_to

if TYPE_CHECKING:
    from qf.export import Exported
    from qf.lesson import Significance
    from qf.memory import Fact
    from qf.model import Model

app = typer.Typer(
    help="Teach a running language model new facts in one step, without gradients.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)


class Solver(StrEnum):
    """How remembered rows become weights."""

    paper = "paper"
    joint = "joint"
    gated = "gated"


def _texts(texts: list[str] | None) -> list[str] | None:
    for text in texts or []:
        _text(text)
    return texts


def _text(text: str | None) -> str | None:
    """Check a text of the command line, where bytes that are none arrive as lone surrogates."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise LessonError(f"The text {text!r} is not valid UTF-8: type it again.") from None
    return text


def _shared(*names: str, help: str, **more: Any) -> Any:
    """An option about the model and its memory; `--help` shows these apart from a command's own."""
    return typer.Option(*names, help=help, rich_help_panel="Model and memory", **more)


ModelName = Annotated[
    str | None,
    _shared("--model", "-m", help="Hub name or directory; default: QF_MODEL, else embedded."),
]
MemoryDir = Annotated[
    Path | None,
    _shared("--memory", help="Directory of the facts; default: QF_MEMORY, else your own."),
]
Layer = Annotated[
    int | None,
    _shared(
        "--layer",
        help="Decoder layer to teach, from 0; default: QF_LAYER, else that of the memory, else the"
        " paper's depth (see `qf layers`).",
    ),
]
SolverName = Annotated[
    Solver | None,
    _shared(
        "--solver",
        help="How facts act: 'gated' for the questions about them, 'joint' in the weights, gently,"
        " 'paper' there by Eq. 3 exactly.",
    ),
]
Calibrated = Annotated[
    bool,
    _shared(
        "--calibrate/--no-calibrate",
        help="Protect what the model does already; measured once, at the first learn.",
    ),
]
System = Annotated[
    str | None,
    _shared("--system", help="The system prompt that the model is served with.", callback=_text),
]
Systems = Annotated[
    list[str] | None,
    _shared(
        "--system",
        help="The system prompt that the model is served with; again for others beside it.",
        callback=_texts,
    ),
]
Tools = Annotated[
    Path | None,
    _shared("--tools", help="JSON file with a list of the tools that its prompts describe."),
]
Thinking = Annotated[bool, _shared("--thinking", help="Let it think before it answers, if it can.")]
Template = Annotated[
    str | None,
    _shared("--template", help="'plain', a file or a chat template, for models without one."),
]
Device = Annotated[
    str | None,
    _shared(
        "--device",
        "--device-map",
        help="cpu, cuda, mps ...; or auto, balanced, sequential: laid over all that there is.",
    ),
]
Dtype = Annotated[str | None, _shared("--dtype", help="float32, bfloat16 or float16.")]
Apply = Annotated[
    str | None,
    _shared(
        "--apply",
        envvar="QF_APPLY",
        help="What is in the weights: 'merged' into them, or in a 'branch' beside them; default:"
        " 'auto', merged where they can be written.",
    ),
]
Trust = Annotated[
    bool, _shared("--trust-remote-code", help="Run code that a hub model brings along.")
]
Picture = Annotated[
    Path | None,
    typer.Option(
        "--image", metavar="FILE", help="A picture to show with it, to a vision-language model."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@dataclass(frozen=True)
class Choice:
    """Which model and memory a command works on: the options that all commands share."""

    model: str | None = None
    memory: Path | None = None
    layer: int | None = None
    solver: Solver | None = None
    system: str | list[str] | None = None
    template: str | None = None
    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    calibrate: bool = True
    tools: Path | None = None
    thinking: bool = False
    apply: str | None = None


@contextmanager
def opened(choice: Choice) -> Iterator[Model]:
    """Load the model of a choice with its memory, and close it whatever happens."""
    tools = _tools(choice.tools)
    with err.status("Loading the model ..."):
        _quiet()
        from qf.model import DEFAULT_SOLVER, load

        model = load(
            choice.model,
            memory=choice.memory,
            layer=choice.layer,
            solver=(choice.solver.value if choice.solver else DEFAULT_SOLVER),
            calibrate=choice.calibrate,
            system=choice.system or None if isinstance(choice.system, list) else choice.system,
            tools=tools,
            thinking=choice.thinking,
            template=choice.template,
            device=choice.device,
            dtype=choice.dtype,
            apply=choice.apply,
            trust_remote_code=choice.trust_remote_code,
        )
    with model:
        yield model


def _tools(file: Path | None) -> list[dict[str, Any]]:
    """The descriptions of tools in a JSON file."""
    if file is None:
        return []
    try:
        tools = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise QFError(f"The tools {file} cannot be read ({why}): name a JSON file.") from None
    if not isinstance(tools, list) or not tools or not all(isinstance(t, dict) for t in tools):
        raise QFError(f"The file {file} holds no list of tools: write [{{...}}, ...] in it.")
    return tools


def _quiet() -> None:
    """Keep Transformers' advice and progress bars out of the user's way."""
    import transformers

    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()


def _print_json(document: Any) -> None:
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(document, ensure_ascii=not unicode, indent=2))


def _say(text: str = "", style: str = "") -> None:
    """Print text as it is: what a model or a user wrote is never taken for markup."""
    out.print(text, style=style, markup=False, soft_wrap=True)


def _say_table(table: Table) -> None:
    """Print a table, folded to the width of a terminal; what a program reads is not folded."""
    console = out if out.is_terminal else Console(width=100_000, highlight=False, emoji=False)
    console.print(table)


def _example(*lines: str) -> str:
    """The end of a command's help."""
    return "[bold]Example[/]\n" + "\n".join(f"  {line}" for line in lines)


# Commands


@app.command(epilog=_example("qf demo", "qf demo --model Qwen/Qwen2.5-1.5B-Instruct"))
def demo(
    model: ModelName = None,
    layer: Layer = None,
    solver: SolverName = Solver.paper,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    apply: Apply = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Watch a model learn its first fact: the eight steps of the paper's Table 1.

    Works on a memory of its own; what you taught is left alone.
    """
    with tempfile.TemporaryDirectory() as scratch:
        memory = Path(scratch) / "memory"
        choice = Choice(
            model,
            memory,
            layer,
            solver,
            None,
            template,
            device,
            dtype,
            trust_remote_code,
            apply=apply,
        )
        with opened(choice) as teacher:
            from qf.demo import table

            show = (lambda _: None) if as_json else _demo_step
            if not as_json:
                _demo_title(teacher)
            outcomes = table.run(teacher, show)
    passed = all(o.passed for o in outcomes)
    if as_json:
        _print_json({"steps": [o.as_dict() for o in outcomes], "passed": passed})
    else:
        right = sum(o.passed for o in outcomes)
        _say()
        _say(f"{right} of {len(outcomes)} steps as expected.", "bold green" if passed else "red")
        if passed:
            _say('Now your own: qf learn "Ada Quist designed the Hollow Bridge."')
    if not passed:
        raise typer.Exit(1)


def _demo_title(model: Model) -> None:
    count = model.transformer.num_parameters()
    size = f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
    _say()
    _say("Table 1 of the QF paper (arXiv 2507.04300)", "bold")
    _say(f"{model.name} model, {size} parameters, taught at layer {model.layer}.")


def _demo_step(outcome: Any) -> None:
    headings = {
        1: "Before learning, weights W",
        4: 'After learning "Qi started Oxinnovate." in one step, weights W′',
        7: "After learning where Oxinnovate is as well, weights W″",
    }
    if outcome.step in headings:
        _say()
        _say(headings[outcome.step], "bold cyan")
    mark = ("✓", "green") if outcome.passed else ("✗", "red")
    told = f"  (told: {outcome.instruction})" if outcome.instruction else ""
    asked = Text(f" {outcome.step}  {outcome.weights:<2}  {outcome.query}").append(told, "dim")
    answered = Text.assemble("      ", mark, "  ", (outcome.answer, "bold"))
    for line in (asked, answered, Text(f"         expected: {outcome.expected}", "dim")):
        out.print(line, soft_wrap=True)


@app.command(
    epilog=_example(
        'qf learn "Ada Quist designed the Hollow Bridge."',
        'qf learn "Qi started Oxinnovate." -q "Who started Oxinnovate?"',
        'qf learn --image plan.png -q "What does the plan of the Hollow Bridge show?"',
    )
)
def learn(
    instruction: Annotated[
        str,
        typer.Argument(
            metavar="STATEMENT",
            help="What is to be known, as a statement; with --image it may be left out.",
            callback=_text,
            show_default=False,
        ),
    ] = "",
    query: Annotated[
        str | None,
        typer.Option(
            "--query", "-q", help="The question; default: the model's own.", callback=_text
        ),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            "--answer", "-a", help="The answer; default: the model's own.", callback=_text
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
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    solver: SolverName = None,
    calibrate: Calibrated = True,
    system: Systems = None,
    tools: Tools = None,
    thinking: Thinking = False,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    apply: Apply = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Teach one fact, and ask for it before and after."""
    if not instruction and image is None:
        raise LessonError(
            "The instruction is empty: write a STATEMENT, or name a picture with --image."
        )
    wanted = _significance(significance)
    choice = Choice(
        model,
        memory,
        layer,
        solver,
        system,
        template,
        device,
        dtype,
        trust_remote_code,
        calibrate,
        tools,
        thinking,
        apply=apply,
    )
    with opened(choice) as learner, err.status("Learning ..."):
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
        _print_json(fact.as_dict())
    else:
        _show_learned(fact)
    if not fact.verified:
        raise typer.Exit(1)


def _show_learned(fact: Fact) -> None:
    table = Table.grid(padding=(0, 2))
    for name, text in (
        ("question", fact.query),
        ("before", fact.before),
        ("after", fact.after),
    ):
        table.add_row(Text(name, "dim"), Text(text))
    _say_table(table)
    count = f"{fact.rows} row{'' if fact.rows == 1 else 's'}"
    done = f"at layer {fact.layer}, {count}, {fact.seconds:.2f} s, id {fact.id}"
    if fact.verified:
        out.print(f"[green]Learned[/] [dim]{done}[/]")
    else:
        out.print(f"[red]Not verified[/] [dim]{done}[/]")
        _say(f"It should say: {fact.answer}\nTry another wording, or another layer (qf layers).")
    if fact.note:
        _say(f"Note: {fact.note}.", "dim")


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


@app.command(epilog=_example('qf ask "Who designed the Hollow Bridge?"'))
def ask(
    query: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask.", callback=_text)],
    instruction: Annotated[
        str,
        typer.Option(
            "--instruction",
            "-i",
            help="Tell it first, for this question only.",
            callback=_text,
        ),
    ] = "",
    image: Picture = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="How long an answer may become.")
    ] = 128,
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    solver: SolverName = None,
    calibrate: Calibrated = True,
    system: System = None,
    tools: Tools = None,
    thinking: Thinking = False,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    apply: Apply = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Ask the model, with all that it was taught."""
    choice = Choice(
        model,
        memory,
        layer,
        solver,
        system,
        template,
        device,
        dtype,
        trust_remote_code,
        calibrate,
        tools,
        thinking,
        apply=apply,
    )
    with opened(choice) as teacher:
        if as_json:
            answer = teacher.ask(query, instruction, image=image, max_tokens=max_tokens)
            _print_json({"query": query, "answer": answer})
            return
        for piece in teacher.stream(query, instruction, image=image, max_tokens=max_tokens):
            print(piece, end="", flush=True)
        print()


@app.command(
    epilog=_example(
        "qf chat",
        "you> /learn Ada Quist designed the Hollow Bridge.",
        "you> Who designed the Hollow Bridge?",
    )
)
def chat(
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    solver: SolverName = None,
    calibrate: Calibrated = True,
    system: System = None,
    tools: Tools = None,
    thinking: Thinking = False,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    apply: Apply = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Talk with the model and teach it in between: /learn, /facts, /forget, /new, /quit."""
    choice = Choice(
        model,
        memory,
        layer,
        solver,
        system,
        template,
        device,
        dtype,
        trust_remote_code,
        calibrate,
        tools,
        thinking,
        apply=apply,
    )
    with opened(choice) as teacher:
        log = _Chat(teacher, loud=not as_json)
        log.run()
    if as_json:
        _print_json(log.turns)


class _Chat:
    """A conversation at the terminal; a line that begins with / is a command."""

    HELP = (
        "/learn STATEMENT                    teach a fact\n"
        "/learn STATEMENT | QUERY | ANSWER   teach it for this question and answer\n"
        "/facts   /forget ID   /new (a new conversation)   /quit"
    )

    def __init__(self, model: Model, loud: bool) -> None:
        self.model, self.loud = model, loud
        self.earlier: list[dict[str, str]] = []
        self.turns: list[dict[str, Any]] = []

    def run(self) -> None:
        if self.loud:
            _say("Ask, or teach with /learn STATEMENT. /help shows more, /quit ends.", "dim")
        while (line := self._line()) is not None:
            try:
                if line in ("/quit", "/exit"):
                    return
                if line:
                    self._command(line) if line.startswith("/") else self._ask(line)
            except QFError as error:
                self._note({"error": str(error)}, str(error), "red")

    def _line(self) -> str | None:
        try:
            return input("you> " if self.loud and sys.stdin.isatty() else "").strip()
        except EOFError:
            return None

    def _note(self, entry: dict[str, Any], text: str, style: str = "") -> None:
        self.turns.append(entry)
        if self.loud:
            _say(text, style)

    def _ask(self, query: str) -> None:
        pieces = []
        for piece in self.model.stream(query, earlier=self.earlier):
            pieces.append(piece)
            if self.loud:
                print(piece, end="", flush=True)
        if self.loud:
            print()
        answer = "".join(pieces).strip()
        self.turns.append({"query": query, "answer": answer})
        self.earlier += [
            {"role": "user", "content": query},
            {"role": "assistant", "content": answer},
        ]

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name == "/learn":
            parts = [part.strip() or None for part in rest.split("|")][:3]
            statement, query, answer = (*parts, None, None)[:3]
            fact = self.model.learn(statement or "", query, answer)
            verb = "Learned" if fact.verified else "Not verified"
            text = f"{verb} ({fact.id}): {fact.query} → {fact.after}"
            self._note({"learned": fact.as_dict()}, text, "green" if fact.verified else "red")
        elif name == "/facts":
            facts = self.model.facts()
            lines = [f"{f.id}  {f.query} → {f.answer}" for f in facts] or ["Nothing learned yet."]
            self._note({"facts": [f.as_dict() for f in facts]}, "\n".join(lines))
        elif name == "/forget":
            fact = self.model.forget(rest.strip())
            self._note({"id": fact.id, "forgotten": True}, f"Forgotten: {fact.statement}")
        elif name == "/new":
            self.earlier.clear()
            self._note({"new": True}, "A new conversation.", "dim")
        else:
            self._note({"help": self.HELP}, self.HELP)


@app.command(epilog=_example("qf facts --json"))
def facts(
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """List what the model was taught."""
    choice = Choice(model, memory, layer, None, None, template, device, dtype, trust_remote_code)
    with opened(choice) as teacher:
        known = teacher.facts()
    if as_json:
        _print_json([fact.as_dict() for fact in known])
        return
    if not known:
        _say('Nothing learned yet. Begin with: qf learn "Ada Quist designed the Hollow Bridge."')
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("id", "statement", "question", "answer", "rows", "acts", "verified"):
        table.add_column(column, no_wrap=column in ("id", "rows", "acts"), overflow="fold")
    for fact in known:
        mark = {True: "[green]yes[/]", False: "[red]no[/]", None: "not asked"}[fact.verified]
        texts = (Text(t) for t in (fact.statement, fact.query, fact.answer))
        acts = "in the weights" if fact.consolidated else "gated"
        table.add_row(fact.id, *texts, str(fact.rows), acts, mark)
    _say_table(table)


@app.command(epilog=_example("qf forget 1a2b3c4d", "qf forget --all"))
def forget(
    fact_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="The fact's id, or how it begins.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Forget all facts: the weights are the base's again.")
    ] = False,
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Forget one fact (or all), as if it had never been taught."""
    if (fact_id is None) is not everything:
        raise QFError("Say what to forget: either an ID (see `qf facts`) or --all.")
    choice = Choice(model, memory, layer, None, None, template, device, dtype, trust_remote_code)
    with opened(choice) as teacher:
        if everything:
            count = teacher.forget_all()
            if as_json:
                _print_json({"forgotten": count})
            else:
                _say(f"Forgot {count} fact{'' if count == 1 else 's'}.")
            return
        fact = teacher.forget(str(fact_id))
    if as_json:
        _print_json({"id": fact.id, "forgotten": True})
    else:
        _say(f"Forgot {fact.id}: {fact.statement}")


@app.command(epilog=_example("qf study notes.txt", 'qf study "Ada Quist leads Orvane. Bo is 7."'))
def study(
    text: Annotated[
        str,
        typer.Argument(metavar="TEXT|FILE", help="Statements, or a text file.", callback=_text),
    ],
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    solver: SolverName = None,
    calibrate: Calibrated = True,
    system: Systems = None,
    tools: Tools = None,
    thinking: Thinking = False,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    apply: Apply = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Learn what a text states, sentence by sentence; only what verifies is kept."""
    told = _text_or_file(text)
    choice = Choice(
        model,
        memory,
        layer,
        solver,
        system,
        template,
        device,
        dtype,
        trust_remote_code,
        calibrate,
        tools,
        thinking,
        apply=apply,
    )
    with opened(choice) as learner, err.status("Studying ..."):
        show = (lambda _: None) if as_json else _show_studied
        done = learner.study(told, on_statement=show)
    learned = [s for s in done if s.fact]
    if as_json:
        _print_json(
            [
                {"statement": s.statement, "query": s.query, "why": s.why}
                | {"fact": s.fact.as_dict() if s.fact else None}
                for s in done
            ]
        )
    else:
        _say(f"Learned {len(learned)} of {len(done)} statements.")
    if len(learned) < len(done):
        raise typer.Exit(1)


def _show_studied(studied: Any) -> None:
    mark = ("✓", "green") if studied.fact else ("✗", "red")
    out.print(Text.assemble(mark, f" {studied.statement}"), soft_wrap=True)
    said = f"{studied.fact.query}  {studied.fact.after}" if studied.fact else studied.why
    out.print(Text(f"    {said}", "dim"), soft_wrap=True)


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


@app.command(epilog=_example("qf consolidate"))
def consolidate(
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    system: Systems = None,
    tools: Tools = None,
    thinking: Thinking = False,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Move the facts behind the gate into the weights: all that are still answered there."""
    choice = Choice(
        model,
        memory,
        layer,
        Solver.gated,
        system,
        template,
        device,
        dtype,
        trust_remote_code,
        tools=tools,
        thinking=thinking,
    )
    with opened(choice) as teacher, err.status("Consolidating ..."):
        done = teacher.consolidate()
    crowded = done.rows > done.comfortable
    if as_json:
        moved = {"consolidated": [f.id for f in done.consolidated]}
        stayed = {"gated": [f.id for f in done.gated], "undisturbed": done.undisturbed}
        _print_json({**moved, **stayed, "rows": done.rows, "comfortable_rows": done.comfortable})
    else:
        _say(f"In the weights: {len(done.consolidated)} facts; behind the gate: {len(done.gated)}.")
        _say(f"{done.undisturbed:.0%} of everyday questions are answered as before.")
        for fact in done.gated:
            _say(f"  {fact.id}  {fact.statement}", "dim")
        if crowded:
            _say(
                f"{done.rows} rows are more than the {done.comfortable} that this model holds"
                " comfortably: forget some, or leave them gated.",
                "yellow",
            )
    if done.gated:
        raise typer.Exit(1)


@app.command(
    epilog=_example(
        "qf export --lora adapter",
        "qf export --merged checkpoint",
        "qf export --gated facts.safetensors",
        "qf export --facts facts.qf 1a2b3c4d",
    )
)
def export(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID...]", help="Facts that leave, by id; default: all."),
    ] = None,
    lora: Annotated[
        Path | None, typer.Option("--lora", help="Directory for a PEFT adapter of the facts.")
    ] = None,
    merged: Annotated[
        Path | None,
        typer.Option("--merged", help="Directory for the whole model with the facts in it."),
    ] = None,
    gated: Annotated[
        Path | None,
        typer.Option("--gated", help="File for the facts behind their gate, with a loader."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--facts", help="File for the facts, to be taken by `qf import`.")
    ] = None,
    each: Annotated[
        bool, typer.Option("--each", help="With --lora: an adapter for each fact, in DIR/ID.")
    ] = False,
    max_rank: Annotated[
        int | None,
        typer.Option("--max-rank", min=1, help="With --lora: compress the adapter to this rank."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export of that name.")
    ] = False,
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    solver: SolverName = None,
    calibrate: Calibrated = True,
    system: System = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    apply: Apply = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Write what was learned as an adapter, a checkpoint, a gated memory, or facts."""
    forms = {"--lora": lora, "--merged": merged, "--gated": gated, "--facts": bundle}
    targets = [(form, path) for form, path in forms.items() if path is not None]
    if len(targets) != 1:
        raise QFError(f"Say what to export, and where to: one of {', '.join(forms)}.")
    if lora is None and (each or max_rank is not None):
        raise QFError("Only adapters are written one by one or compressed: give --lora.")
    choice = Choice(
        model,
        memory,
        layer,
        solver,
        system,
        template,
        device,
        dtype,
        trust_remote_code,
        calibrate,
        apply=apply,
    )
    ((form, path),) = targets
    with opened(choice) as teacher, err.status("Exporting ..."):
        facts = ids or []
        if lora is not None:
            done = teacher.export_lora(lora, facts, each=each, max_rank=max_rank, force=force)
        elif merged is not None:
            done = teacher.save_merged(merged, facts, force=force)
        elif gated is not None:
            done = teacher.export_gated(gated, facts, force=force)
        else:
            done = teacher.export_facts(path, facts, force=force)
    if as_json:
        _print_json({"form": form.removeprefix("--"), **done.as_dict()})
    else:
        _show_exported(done)
    if done.left_out or done.unverified:
        raise typer.Exit(1)


def _show_exported(done: Exported) -> None:
    rank = f" Rank {done.rank}." if done.rank else ""
    name = f" Name it {done.name}." if done.name and done.rank else ""
    _say(f"Wrote {_count(done.facts)} to {done.path}.{rank}{name}")
    for why, facts in (
        ("Left out, not answered from the weights", done.left_out),
        ("In it, but not answered from it", done.unverified),
    ):
        if facts:
            _say(f"{why}: {_count(facts)}.", "yellow")
            _say_facts(facts)


@app.command("import", epilog=_example("qf import facts.qf"))
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `qf export --facts` wrote.")],
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    solver: SolverName = None,
    system: System = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    apply: Apply = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Take in facts that the same model was taught elsewhere."""
    choice = Choice(
        model,
        memory,
        layer,
        solver,
        system,
        template,
        device,
        dtype,
        trust_remote_code,
        apply=apply,
    )
    with opened(choice) as teacher, err.status("Importing ..."):
        came = teacher.import_facts(file)
    if as_json:
        _print_json({k: [f.id for f in facts] for k, facts in vars(came).items()})
        return
    _say(f"Took in {_count(came.added)}; there already: {len(came.skipped)}.")
    if came.replaced:
        _say(f"Replaced, for they answer the same questions: {_count(came.replaced)}.")
        _say_facts(came.replaced)


def _count(facts: list[Fact]) -> str:
    return f"{len(facts)} fact{'' if len(facts) == 1 else 's'}"


def _say_facts(facts: list[Fact]) -> None:
    for fact in facts:
        _say(f"  {fact.id}  {fact.statement}", "dim")


@app.command(epilog=_example("qf calibrate", "qf calibrate my-prompts.txt"))
def calibrate(
    prompts: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Prompts of your own as well, one on each line."),
    ] = None,
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    system: System = None,
    tools: Tools = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Measure what to protect and how to tell questions apart; done by itself when first needed."""
    own = _prompts(prompts) if prompts else []
    choice = Choice(
        model,
        memory,
        layer,
        None,
        system,
        template,
        device,
        dtype,
        trust_remote_code,
        tools=tools,
    )
    with opened(choice) as teacher, err.status("Calibrating ..."):
        started = time.perf_counter()
        traffic = teacher.calibrate(own)
        gate = teacher.gate
        seconds = time.perf_counter() - started
        layer = teacher.layer
    directions = len(traffic.moments)
    if as_json:
        found = {"layer": layer, "directions": directions, "floor": traffic.floor}
        found |= {"gate_layer": gate.layer, "threshold": gate.threshold}
        _print_json({**found, "prompts": len(own), "seconds": seconds})
    else:
        _say(f"Calibrated layer {layer}: {directions} directions to protect, {seconds:.2f} s.")
        _say(f"The gate reads layer {gate.layer} and opens above {gate.threshold:.2f}.")


def _prompts(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise QFError(f"The prompts {file} cannot be read ({why}): name a text file.") from None
    if not any(lines):
        raise QFError(f"The file {file} holds no prompts: write one on each line.")
    return [line for line in lines if line]


@app.command(epilog=_example("qf layers --plot layers.png"))
def layers(
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Where the PNG goes; default: qf-layers.png.")
    ] = None,
    probes: Annotated[
        int, typer.Option("--probes", min=1, max=8, help="Lessons taught at each layer.")
    ] = 8,
    model: ModelName = None,
    system: System = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Find the layer to teach: lessons at every layer, forward passes only."""
    path = plot or Path("qf-layers.png")
    if path.is_dir() or not path.parent.is_dir():
        raise QFError(f"The plot {path} cannot be written: name a file in a directory with --plot.")
    with tempfile.TemporaryDirectory() as scratch:
        memory = Path(scratch) / "memory"
        choice = Choice(
            model, memory, None, None, system, template, device, dtype, trust_remote_code
        )
        with opened(choice) as teacher:
            from qf.method.layers import best, default_layer, sweep
            from qf.method.probes import KNOWN, PROBES
            from qf.plot import layers_png

            if not as_json:
                _say("layer  same words  other words  known kept  score", "dim")
            scores = sweep(
                teacher.transformer,
                teacher.family,
                teacher.tokenizer,
                PROBES[:probes],
                KNOWN,
                system=system,
                on_layer=(lambda _: None) if as_json else _show_layer,
            )
            found, name = best(scores), teacher.name
            usual = default_layer(len(scores))
    layers_png(scores, found.layer, path, f"Where to teach: {name}")
    if as_json:
        rows = [{**vars(s), "score": s.score} for s in scores]
        _print_json({"model": name, "layers": rows, "best": found.layer, "plot": str(path)})
        return
    _say()
    _say(f"Best: layer {found.layer}. The default is layer {usual}. Plot: {path}", "bold")
    if found.layer != usual:
        _say(f"Use it with --layer {found.layer}, or set QF_LAYER={found.layer}.")


def _show_layer(score: Any) -> None:
    from qf.plot import bar

    out.print(
        f"{score.layer:>5}  {score.same:>10.0%}  {score.other:>11.0%}  {score.kept:>10.0%}  "
        f"[cyan]{bar(score.score, 20)}[/] {score.score:.2f}"
    )


@app.command(epilog=_example("qf models", "qf models --json"))
def models(as_json: Json = False) -> None:
    """List the architectures that can be taught, and those that cannot, with the reason."""
    with err.status("Looking ..."):
        _quiet()
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
    others = "Any other type is taken if a short pass shows that its layers are built like Llama's."
    if as_json:
        _print_json({"models": rows, "others": others})
    else:
        _show_models(rows)
        _say(others)


def _show_models(rows: list[dict[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("type", "support", "such as"):
        table.add_column(column, overflow="fold")
    colours = {"exact": "green", "approximate": "yellow"}
    for row in rows:
        if row["examples"]:
            support = Text(row["support"], colours[row["support"]])
            table.add_row(row["type"], support, ", ".join(row["examples"]))
    _say_table(table)
    _say()
    for support, why in dict.fromkeys((row["support"], row["why"]) for row in rows if row["why"]):
        names = ", ".join(row["type"] for row in rows if row["why"] == why)
        _say(f"{support.capitalize()}: {names}: {why}.")


@app.command(epilog=_example("qf doctor", "qf doctor --model Qwen/Qwen2.5-1.5B-Instruct"))
def doctor(
    model: ModelName = None,
    memory: MemoryDir = None,
    layer: Layer = None,
    system: System = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Look whether all is well, and teach a fact as a test; for bug reports, and nothing private.

    Your memory is read and left alone.
    """
    with err.status("Looking ...") as status:
        _quiet()
        from qf.doctor import examine

        report = examine(
            model,
            memory=memory,
            layer=layer,
            system=system,
            loading={
                "template": template,
                "device": device,
                "dtype": dtype,
                "trust_remote_code": trust_remote_code,
            },
            on_step=lambda name: status.update(f"Looking at: {name} ..."),
        )
    if as_json:
        _print_json(report.as_dict())
    else:
        colours = {"ok": "green", "warning": "yellow", "problem": "red"}
        for found in report.findings:
            status_text = Text(f"{found.status:<8}", colours[found.status])
            out.print(Text.assemble(status_text, f"{found.name:<12}", found.text), soft_wrap=True)
            if found.remedy:
                _say(f"{'':<20}{found.remedy}", "dim")
    if not report.healthy:
        raise typer.Exit(1)


@app.command(
    "eval",
    epilog=_example(
        "qf eval generated --facts 100 --method none,prompt,joint,gated",
        "qf eval counterfact.json --facts 1000 --out counterfact.jsonl",
    ),
)
def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A file of CounterFact, zsRE or QAEdit, or the word 'generated': made-up facts.",
            callback=_text,
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
    model: ModelName = None,
    layer: Annotated[
        int | None,
        _shared(
            "--layer", envvar="QF_LAYER", help="Decoder layer to teach; default: the paper's depth."
        ),
    ] = None,
    calibrate: Calibrated = True,
    system: System = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Measure how well facts are learned: by several methods, the same facts, in percent.

    Works on a memory of its own; what you taught is left alone.
    """
    with err.status("Reading the data ...") as status:
        _quiet()
        from qf.evaluate import run
        from qf.loading import load_pair

        methods = run.methods_of(method)
        journal = run.Journal(save) if save else None
        material = run.prepare(data, facts, seed)
        status.update("Loading the model ...")
        loaded = load_pair(
            model,
            template=template,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
        settings = run.Settings(layer, system, calibrate, immediate)
        report = run.evaluate(loaded, material, methods, settings, journal, status.update)
    if as_json:
        _print_json(report.as_dict())
    else:
        _show_report(report)


def _as_published(report: Any) -> Table:
    from qf.evaluate.published import NAMES

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("as published")
    for name in NAMES:
        table.add_column(name.replace("_", " "), justify="right")
    for method, figures in report.methods.items():
        table.add_row(method, *(_figure(name, figures.get(name)) for name in NAMES))
    return table


def _show_report(report: Any) -> None:
    titles = {
        "efficacy": "right after",
        "retained": "same words",
        "paraphrase": "other words",
        "locality": "unchanged",
        "kept": "kept right",
        "score": "score",
        "seconds_per_fact": "s per fact",
        "peak_memory_mb": "MB more",
    }
    if not report.immediate:
        del titles["efficacy"]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("method")
    for title in titles.values():
        table.add_column(title, justify="right")
    for method, figures in report.methods.items():
        table.add_row(method, *(_figure(name, figures[name]) for name in titles))
    _say_table(table)
    _say()
    _say_table(_as_published(report))
    _say()
    _say(f"{report.facts} facts of {report.data}, {report.model} model; percent.", "dim")
    for reason, count in report.skipped.items():
        _say(f"Left out: {count} ({reason}).", "yellow")
    for method, figures in report.methods.items():
        if figures["not_learned"]:
            _say(f"Not learned by {method}: {figures['not_learned']}.", "yellow")


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if name == "seconds_per_fact" else f"{value:.1f}"


add_to(app)


def main() -> NoReturn:
    """Run the command line; a QFError becomes one sentence and exit code 2."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what cannot be shown is a ?, not an end
    try:
        code = app(standalone_mode=False) or 0
    except QFError as error:
        code = _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if not hasattr(error, "exit_code"):
            raise
        if hasattr(error, "show"):
            error.show()
        code = error.exit_code
    if code == 130:  # typer, too, gives this for Ctrl-C
        _fail("Interrupted; what was learned before is kept.", code)
    raise SystemExit(code)


def _fail(message: str, code: int) -> int:
    err.print(Text.assemble(("qf:", "red"), " ", message), soft_wrap=True)
    return code
