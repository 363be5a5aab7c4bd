"""Measure every method with ever more facts, and write docs/RESULTS.md with its plots.

    python benchmarks/results.py --facts 1 10 100 1000 --out build/results
    python benchmarks/results.py --out build/results --render     # the page alone

It can be stopped at any time: the same command goes on where it was. A method that would take
longer than --minutes-each is left out, and the page says so; a later start with more minutes runs
it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks is not installed

from benchmarks.measuring import COMPARED, Plan, measure
from benchmarks.report import markdown, plots, results
from benchmarks.teachers import METHODS
from qf.errors import QFError
from qf.evaluate.journal import Journal
from qf.evaluate.run import Settings
from qf.loading import load_pair


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    try:
        out = _directory(args.out, "--out")
        journal = Journal(out / "results.jsonl", COMPARED)
        if not args.render:
            _measure(args, journal)
        found = results(journal.header, journal.lines)
        images = os.path.relpath(args.images, args.report.parent)
        page = markdown(found, Path(images).as_posix(), args.out.as_posix())
        for name, figure in plots(found).items():
            target = _directory(args.images, "--images") / f"results-{name}.png"
            _whole(target, partial(figure.savefig, format="png"))
        _directory(args.report.parent, "--report")
        _whole(args.report, lambda path: path.write_text(page, encoding="utf-8"))
    except QFError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped: the same command goes on from here.", file=sys.stderr)
        return 130
    print(f"{args.report} is written from {journal.path}.")
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--facts", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="METHOD")
    parser.add_argument("--singles", type=int, default=20, help="memories of one fact")
    parser.add_argument("--minutes-each", type=float, default=10, help="to teach by one method")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model")
    parser.add_argument("--layer", type=int, help="that qf, finetune and lora teach")
    parser.add_argument("--no-calibrate", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/results"))
    parser.add_argument("--report", type=Path, default=Path("docs/RESULTS.md"))
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    parser.add_argument("--render", action="store_true", help="measure nothing")
    return parser.parse_args(argv)


def _measure(args: argparse.Namespace, journal: Journal) -> None:
    settings = Settings(layer=args.layer, calibrate=not args.no_calibrate)
    plan = Plan(
        args.facts,
        args.methods,
        args.singles,
        args.minutes_each,
        args.seed,
        settings,
        _given(args),
    )
    logging.getLogger("transformers").setLevel(logging.ERROR)
    measure(load_pair(args.model), plan, journal, lambda text: print(text, file=sys.stderr))


def _given(args: argparse.Namespace) -> list[str]:
    """The options, other than the usual ones, that it takes to measure the same again."""
    words = []
    for name, usual in (("model", None), ("layer", None), ("singles", 20), ("seed", 1)):
        if getattr(args, name) != usual:
            words += [f"--{name}", str(getattr(args, name))]
    return words + ["--no-calibrate"] * args.no_calibrate


def _directory(path: Path, option: str) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QFError(
            f"The directory {path} cannot be used ({error.strerror}): name another with {option}."
        ) from None
    return path


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside `path` and put in its place, so that it is never there in part."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            write(Path(name))
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise QFError(f"{path} cannot be written ({error.strerror}): make room for it.") from None


if __name__ == "__main__":
    sys.exit(main())
