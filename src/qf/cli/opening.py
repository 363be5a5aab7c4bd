"""Loading the model of a `Choice` for a command; torch is first imported here, when one runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qf.cli.options import Choice
from qf.cli.say import progress
from qf.errors import QFError

if TYPE_CHECKING:
    from qf.model import Model


@contextmanager
def opened(choice: Choice) -> Iterator[Model]:
    """Load the model of a choice with its memory, and close it whatever happens."""
    tools = read_tools(choice.tools)
    with progress("Loading the model ..."):
        quieten()
        from qf.model import DEFAULT_SOLVER, load

        model = load(
            choice.model,
            memory=choice.memory,
            layer=choice.layer,
            solver=(choice.solver.value if choice.solver else DEFAULT_SOLVER),
            calibrate=choice.calibrate,
            system=choice.systems or choice.system,
            tools=tools,
            thinking=choice.thinking,
            apply=choice.apply,
            **choice.loading(),
        )
    with model:
        yield model


def read_tools(file: Path | None) -> list[dict[str, Any]]:
    """The descriptions of tools in a JSON file.

    Raises:
        QFError: It cannot be read or holds no list of tools.
    """
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


def quieten() -> None:
    """Keep Transformers' advice and progress bars out of the user's way."""
    import transformers

    transformers.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
