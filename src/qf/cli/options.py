"""The options that commands share: each declared once, and the `Choice` that they make.

Knows how an option reads and what is a valid text, not what a command does with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from qf.errors import LessonError


class Solver(StrEnum):
    """How remembered rows become weights."""

    paper = "paper"
    joint = "joint"
    gated = "gated"


@dataclass(frozen=True)
class Choice:
    """Which model and memory a command works on; None: what `qf.load` takes by itself."""

    model: str | None = None
    memory: Path | None = None
    layer: int | None = None
    solver: Solver | None = None
    calibrate: bool = True
    system: str | None = None
    systems: list[str] | None = None
    tools: Path | None = None
    thinking: bool = False
    template: str | None = None
    device: str | None = None
    dtype: str | None = None
    apply: str | None = None
    trust_remote_code: bool = False

    def loading(self) -> dict[str, Any]:
        """What is needed to load the model that is named, without a memory."""
        return {
            "template": self.template,
            "device": self.device,
            "dtype": self.dtype,
            "trust_remote_code": self.trust_remote_code,
        }


DEFAULT = Choice()


def valid_text(text: str | None) -> str | None:
    """Check a text of the command line, where bytes that are none arrive as lone surrogates."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise LessonError(f"The text {text!r} is not valid UTF-8: type it again.") from None
    return text


def _valid_texts(texts: list[str] | None) -> list[str] | None:
    for text in texts or []:
        valid_text(text)
    return texts


def shared(*names: str, help: str, **more: Any) -> Any:
    """An option about the model and its memory; `--help` shows these apart from a command's own."""
    return typer.Option(*names, help=help, rich_help_panel="Model and memory", **more)


ModelName = Annotated[
    str | None,
    shared("--model", "-m", help="Hub name or directory; default: QF_MODEL, else embedded."),
]
MemoryDir = Annotated[
    Path | None,
    shared("--memory", help="Directory of the facts; default: QF_MEMORY, else your own."),
]
Layer = Annotated[
    int | None,
    shared(
        "--layer",
        help="Decoder layer to teach, from 0; default: QF_LAYER, else that of the memory, else the"
        " paper's depth (see `qf layers`).",
    ),
]
SolverName = Annotated[
    Solver | None,
    shared(
        "--solver",
        help="How facts act: 'gated' for the questions about them, 'joint' in the weights, gently,"
        " 'paper' there by Eq. 3 exactly.",
    ),
]
Calibrated = Annotated[
    bool,
    shared(
        "--calibrate/--no-calibrate",
        help="Protect what the model does already; measured once, at the first learn.",
    ),
]
System = Annotated[
    str | None,
    shared(
        "--system", help="The system prompt that the model is served with.", callback=valid_text
    ),
]
Systems = Annotated[
    list[str] | None,
    shared(
        "--system",
        help="The system prompt that the model is served with; again for others beside it.",
        callback=_valid_texts,
    ),
]
Tools = Annotated[
    Path | None,
    shared("--tools", help="JSON file with a list of the tools that its prompts describe."),
]
Thinking = Annotated[bool, shared("--thinking", help="Let it think before it answers, if it can.")]
Template = Annotated[
    str | None,
    shared("--template", help="'plain', a file or a chat template, for models without one."),
]
Device = Annotated[
    str | None,
    shared(
        "--device",
        "--device-map",
        help="cpu, cuda, mps ...; or auto, balanced, sequential: laid over all that there is.",
    ),
]
Dtype = Annotated[str | None, shared("--dtype", help="float32, bfloat16 or float16.")]
Apply = Annotated[
    str | None,
    shared(
        "--apply",
        envvar="QF_APPLY",
        help="What is in the weights: 'merged' into them, or in a 'branch' beside them; default:"
        " 'auto', merged where they can be written.",
    ),
]
Trust = Annotated[
    bool, shared("--trust-remote-code", help="Run code that a hub model brings along.")
]
Picture = Annotated[
    Path | None,
    typer.Option(
        "--image", metavar="FILE", help="A picture to show with it, to a vision-language model."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

# The option of each field of a `Choice`, in the order of `--help`.
OPTIONS: dict[str, Any] = {
    "model": ModelName,
    "memory": MemoryDir,
    "layer": Layer,
    "solver": SolverName,
    "calibrate": Calibrated,
    "system": System,
    "systems": Systems,
    "tools": Tools,
    "thinking": Thinking,
    "template": Template,
    "device": Device,
    "dtype": Dtype,
    "apply": Apply,
    "trust_remote_code": Trust,
}
ALWAYS = {"model", "template", "device", "dtype", "trust_remote_code"}

Command = Callable[..., None]


def choosing(*names: str, preset: Choice = DEFAULT, **others: Any) -> Callable[[Command], Command]:
    """Give a command the options that make its parameter `choice`: those that always are, and more.

    Args:
        names: fields of `Choice` that this command lets the user set as well.
        preset: what is chosen where the user says nothing.
        others: an option in place of the shared one, by the field that it sets.
    """
    wanted = ALWAYS | {*names, *others}
    assert wanted <= OPTIONS.keys(), "each has its place in the help"
    options = {name: others.get(name, option) for name, option in OPTIONS.items() if name in wanted}

    def give(command: Command) -> Command:
        @wraps(command)
        def chosen(**given: Any) -> None:
            choice = replace(preset, **{name: given.pop(name) for name in options})
            command(choice=choice, **given)

        parameters = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name == "choice":
                parameters += [_parameter(n, o, getattr(preset, n)) for n, o in options.items()]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        # Typer reads both to find a command's options.
        chosen.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        chosen.__annotations__ = {p.name: p.annotation for p in parameters}
        return chosen

    return give


def _parameter(name: str, option: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=option)


def example(*lines: str) -> str:
    """The end of a command's help."""
    return "[bold]Example[/]\n" + "\n".join(f"  {line}" for line in lines)
