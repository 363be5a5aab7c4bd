"""The commands that measure a model before it is taught: `calibrate` and `layers`."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qf.cli.opening import opened
from qf.cli.options import Choice, Json, choosing, example
from qf.cli.say import progress, say, say_json, say_markup
from qf.errors import QFError

if TYPE_CHECKING:
    from qf.method.layers import LayerScore

commands = typer.Typer()


@commands.command(epilog=example("qf calibrate", "qf calibrate my-prompts.txt"))
@choosing("memory", "layer", "system", "tools")
def calibrate(
    prompts: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Prompts of your own as well, one on each line."),
    ] = None,
    *,
    choice: Choice,
    as_json: Json = False,
) -> None:
    """Measure what to protect and how to tell questions apart; done by itself when first needed."""
    own = _prompts(prompts) if prompts else []
    with opened(choice) as teacher, progress("Calibrating ..."):
        started = time.perf_counter()
        traffic = teacher.calibrate(own)
        gate = teacher.gate
        seconds = time.perf_counter() - started
        layer = teacher.layer
    directions = len(traffic.moments)
    if as_json:
        found = {"layer": layer, "directions": directions, "floor": traffic.floor}
        found |= {"gate_layer": gate.layer, "threshold": gate.threshold}
        say_json({**found, "prompts": len(own), "seconds": seconds})
    else:
        say(f"Calibrated layer {layer}: {directions} directions to protect, {seconds:.2f} s.")
        say(f"The gate reads layer {gate.layer} and opens above {gate.threshold:.2f}.")


def _prompts(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise QFError(f"The prompts {file} cannot be read ({why}): name a text file.") from None
    if not any(lines):
        raise QFError(f"The file {file} holds no prompts: write one on each line.")
    return [line for line in lines if line]


@commands.command(epilog=example("qf layers --plot layers.png"))
@choosing("system")
def layers(
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Where the PNG goes; default: qf-layers.png.")
    ] = None,
    probes: Annotated[
        int, typer.Option("--probes", min=1, max=8, help="Lessons taught at each layer.")
    ] = 8,
    *,
    choice: Choice,
    as_json: Json = False,
) -> None:
    """Find the layer to teach: lessons at every layer, forward passes only."""
    path = plot or Path("qf-layers.png")
    if path.is_dir() or not path.parent.is_dir():
        raise QFError(f"The plot {path} cannot be written: name a file in a directory with --plot.")
    with (
        tempfile.TemporaryDirectory() as scratch,
        opened(replace(choice, memory=Path(scratch) / "memory")) as teacher,
    ):
        from qf.method.layers import best, default_layer, sweep
        from qf.method.probes import KNOWN, PROBES
        from qf.plot import layers_png

        if not as_json:
            say("layer  same words  other words  known kept  score", "dim")
        scores = sweep(
            teacher.transformer,
            teacher.family,
            teacher.tokenizer,
            PROBES[:probes],
            KNOWN,
            system=choice.system,
            on_layer=(lambda _: None) if as_json else _say_layer,
        )
        found, name = best(scores), teacher.name
        usual = default_layer(len(scores))
    layers_png(scores, found.layer, path, f"Where to teach: {name}")
    if as_json:
        rows = [{**vars(s), "score": s.score} for s in scores]
        say_json({"model": name, "layers": rows, "best": found.layer, "plot": str(path)})
        return
    say()
    say(f"Best: layer {found.layer}. The default is layer {usual}. Plot: {path}", "bold")
    if found.layer != usual:
        say(f"Use it with --layer {found.layer}, or set QF_LAYER={found.layer}.")


def _say_layer(score: LayerScore) -> None:
    from qf.plot import bar

    say_markup(
        f"{score.layer:>5}  {score.same:>10.0%}  {score.other:>11.0%}  {score.kept:>10.0%}  "
        f"[cyan]{bar(score.score, 20)}[/] {score.score:.2f}"
    )
