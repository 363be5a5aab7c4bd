"""The commands that talk with the model: `ask` one question, `chat` at the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qf.cli.opening import opened
from qf.cli.options import Choice, Json, Picture, choosing, example, valid_text
from qf.cli.say import say, say_json, say_stream
from qf.errors import QFError

if TYPE_CHECKING:
    from qf.model import Model

commands = typer.Typer()


@commands.command(epilog=example('qf ask "Who designed the Hollow Bridge?"'))
@choosing("memory", "layer", "solver", "calibrate", "system", "tools", "thinking", "apply")
def ask(
    query: Annotated[
        str, typer.Argument(metavar="QUESTION", help="What to ask.", callback=valid_text)
    ],
    instruction: Annotated[
        str,
        typer.Option(
            "--instruction",
            "-i",
            help="Tell it first, for this question only.",
            callback=valid_text,
        ),
    ] = "",
    image: Picture = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="How long an answer may become.")
    ] = 128,
    *,
    choice: Choice,
    as_json: Json = False,
) -> None:
    """Ask the model, with all that it was taught."""
    with opened(choice) as teacher:
        if as_json:
            answer = teacher.ask(query, instruction, image=image, max_tokens=max_tokens)
            say_json({"query": query, "answer": answer})
        else:
            say_stream(teacher.stream(query, instruction, image=image, max_tokens=max_tokens))


@commands.command(
    epilog=example(
        "qf chat",
        "you> /learn Ada Quist designed the Hollow Bridge.",
        "you> Who designed the Hollow Bridge?",
    )
)
@choosing("memory", "layer", "solver", "calibrate", "system", "tools", "thinking", "apply")
def chat(*, choice: Choice, as_json: Json = False) -> None:
    """Talk with the model and teach it in between: /learn, /facts, /forget, /new, /quit."""
    with opened(choice) as teacher:
        log = _Chat(teacher, loud=not as_json)
        log.run()
    if as_json:
        say_json(log.turns)


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
            say("Ask, or teach with /learn STATEMENT. /help shows more, /quit ends.", "dim")
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
            say(text, style)

    def _ask(self, query: str) -> None:
        pieces = self.model.stream(query, earlier=self.earlier)
        answer = (say_stream(pieces) if self.loud else "".join(pieces)).strip()
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
