"""Measure the embedded model on names that its training never showed, and what it can be taught.

    python scripts/measure_demo.py                 # reading, knowing, "I do not know.", tasks
    python scripts/measure_demo.py --teach 200 --unseen     # and facts, each taught alone

Greedy answers, compared as whole texts; those to the facts of unseen.csv, which the model gives in
words of its own, are right where they hold every word that was asked for. Prints a table, or one
JSON document with --json.
"""

from __future__ import annotations

import argparse
import json

from qf.demo.curriculum import ORDINARY, questions
from qf.demo.measure import (
    SKILLS,
    made_up_facts,
    measure_skills,
    measure_teaching,
    measure_together,
    unseen_facts,
)
from qf.demo.wider import widen
from qf.loading import load_pair
from qf.model import DEFAULT_SOLVER, REWORDINGS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--questions", type=int, default=500, help="questions of each kind")
    parser.add_argument("--teach", type=int, default=0, help="facts taught one at a time")
    parser.add_argument("--together", type=int, nargs="*", default=[], help="facts in one memory")
    parser.add_argument(
        "--asked", type=int, help="so many of the facts in one memory are asked for"
    )
    parser.add_argument("--unseen", action="store_true", help="the facts of demo/unseen.csv too")
    parser.add_argument("--layer", type=int)
    parser.add_argument("--solver", default=DEFAULT_SOLVER)
    parser.add_argument("--rewordings", type=int, default=REWORDINGS, help="learned of each fact")
    parser.add_argument("--no-calibrate", action="store_true")
    parser.add_argument(
        "--consolidate", action="store_true", help="the facts in one memory, before they are asked"
    )
    parser.add_argument(
        "--columns", type=int, help="of W in the last layer: units with random inputs are added"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=0, help="wrong answers shown of each kind")
    parser.add_argument("--skip-skills", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    loaded = load_pair(args.model)
    ordinary: list[str] = []
    if args.columns:
        widen(loaded.transformer, loaded.transformer.config.num_hidden_layers - 1, args.columns)
    if args.columns or args.layer is not None:  # for what the model brings no calibration
        ordinary = questions(ORDINARY, seed=0)
    results: dict[str, float] = {}
    misses: list[tuple[str, str, str, str]] = []
    if not args.skip_skills:
        for skill in SKILLS:
            result = measure_skills(loaded, skill, args.questions, args.seed)
            results[skill] = result.share
            misses += [(skill, *miss) for miss in result.misses[: args.show]]
    options = {"layer": args.layer, "solver": args.solver, "rewordings": args.rewordings}
    options["calibrate"] = not args.no_calibrate
    taught = {"made up": made_up_facts(args.teach, args.seed)}
    if args.unseen:
        taught["by hand"] = unseen_facts()
    for kind, facts in taught.items():
        if not facts:
            continue
        own = kind == "by hand"
        found = measure_teaching(loaded, facts, own_answers=own, **options)
        for name, result in found.items():
            results[f"{kind}: {name}"] = result.share
            misses += [(f"{kind}: {name}", *miss) for miss in result.misses[: args.show]]
    for count in args.together:
        facts = made_up_facts(count, args.seed)
        found = measure_together(
            loaded,
            facts,
            asked=args.asked,
            consolidate=args.consolidate,
            ordinary=ordinary,
            **options,
        )
        results |= {f"{count} together: {name}": r.share for name, r in found.items()}
    if args.json:
        print(json.dumps(results, indent=2))
        return
    for name, share in results.items():
        print(f"{name:<36} {share:6.1%}")
    for name, query, answer, expected in misses:
        print(f"\n{name}\n  asked     {query}\n  answered  {answer}\n  expected  {expected}")


if __name__ == "__main__":
    main()
