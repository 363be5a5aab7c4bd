"""The `qf` command: thin over one `Model`, and the only package that prints or exits.

Exit code 0: done; 1: did not do what was asked, such as a fact that does not verify; 2: bad usage
or input; 130: interrupted. Answers go to stdout, everything else to stderr.

A file holds the commands of one kind; `options` what they share, `opening` how they load a model,
`say` how they print.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from qf.cli import (
    asking,
    checking,
    demo,
    evaluating,
    leaving,
    measuring,
    remembering,
    teaching,
)
from qf.cli.say import fail
from qf.errors import QFError
from qf.serve.commands import add_to

__all__ = ["app", "main"]

ORDER = (
    "demo learn ask chat facts forget study consolidate export import calibrate layers models"
    " doctor eval serve keys"
).split()


class _Ordered(TyperGroup):
    """Lists the commands as a user meets them, not as files hold them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    cls=_Ordered,
    help="Teach a running language model new facts in one step, without gradients.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for kind in (asking, checking, demo, evaluating, leaving, measuring, remembering, teaching):
    app.add_typer(kind.commands)
add_to(app)


def main() -> NoReturn:
    """Run the command line; a QFError becomes one sentence and exit code 2."""
    # Threads of OpenMP that wait awake starve one another where other processes run. Read by torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what cannot be shown is a ?, not an end
    try:
        code = app(standalone_mode=False) or 0
    except QFError as error:
        code = fail(str(error), 2)
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
        fail("Interrupted; what was learned before is kept.", code)
    raise SystemExit(code)
