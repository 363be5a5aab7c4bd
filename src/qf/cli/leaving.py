"""The commands by which facts leave a memory and come into another: `export`, `import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qf.cli.opening import opened
from qf.cli.options import Choice, Json, choosing, example
from qf.cli.say import counted, progress, say, say_facts, say_json
from qf.errors import QFError

if TYPE_CHECKING:
    from qf.export import Exported

commands = typer.Typer()


@commands.command(
    epilog=example(
        "qf export --lora adapter",
        "qf export --merged checkpoint",
        "qf export --gated facts.safetensors",
        "qf export --facts facts.qf 1a2b3c4d",
    )
)
@choosing("memory", "layer", "solver", "calibrate", "system", "apply")
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
    *,
    choice: Choice,
    as_json: Json = False,
) -> None:
    """Write what was learned as an adapter, a checkpoint, a gated memory, or facts."""
    forms = {"--lora": lora, "--merged": merged, "--gated": gated, "--facts": bundle}
    targets = [(form, path) for form, path in forms.items() if path is not None]
    if len(targets) != 1:
        raise QFError(f"Say what to export, and where to: one of {', '.join(forms)}.")
    if lora is None and (each or max_rank is not None):
        raise QFError("Only adapters are written one by one or compressed: give --lora.")
    ((form, path),) = targets
    with opened(choice) as teacher, progress("Exporting ..."):
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
        say_json({"form": form.removeprefix("--"), **done.as_dict()})
    else:
        _say_exported(done)
    if done.left_out or done.unverified:
        raise typer.Exit(1)


def _say_exported(done: Exported) -> None:
    rank = f" Rank {done.rank}." if done.rank else ""
    name = f" Name it {done.name}." if done.name and done.rank else ""
    say(f"Wrote {counted(done.facts)} to {done.path}.{rank}{name}")
    for why, facts in (
        ("Left out, not answered from the weights", done.left_out),
        ("In it, but not answered from it", done.unverified),
    ):
        if facts:
            say(f"{why}: {counted(facts)}.", "yellow")
            say_facts(facts)


@commands.command("import", epilog=example("qf import facts.qf"))
@choosing("memory", "layer", "solver", "system", "apply")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `qf export --facts` wrote.")],
    *,
    choice: Choice,
    as_json: Json = False,
) -> None:
    """Take in facts that the same model was taught elsewhere."""
    with opened(choice) as teacher, progress("Importing ..."):
        came = teacher.import_facts(file)
    if as_json:
        say_json({k: [f.id for f in facts] for k, facts in vars(came).items()})
        return
    say(f"Took in {counted(came.added)}; there already: {len(came.skipped)}.")
    if came.replaced:
        say(f"Replaced, for they answer the same questions: {counted(came.replaced)}.")
        say_facts(came.replaced)
