"""What is lost of a change of W when it is merged into W, beside one that acts in a branch.

    python benchmarks/merged_error.py               # the embedded model, 10 made-up facts, Eq. 3

The change ΔW = B A of all facts is solved in float64. Merged, W + ΔW is rounded to the precision of
W; in a branch, B (A u) is computed in float32 and W stays as it is. Against float64:

    lost   ‖W' - (W + ΔW)‖ / ‖ΔW‖            the part of the change that rounding takes away
    rows   ‖(W' - W - ΔW) k‖ / ‖r‖, mean     the part of what a row asks for that is not answered
    same   facts that are answered as they were open-book, in percent
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from qf.evaluate.material import prepare
from qf.loading import DTYPES, load_pair
from qf.method.solve import Update
from qf.model import Model, says

FORMS = ("merged", "branch")


def learned(model: Model, facts: int) -> list[tuple[str, str]]:
    """Teach made-up facts; return each question and what the model answered open-book."""
    edits = prepare("generated", facts).edits
    told = [(e.query, model.ask(e.query, e.instruction)) for e in edits]
    for edit, (_, answer) in zip(edits, told, strict=True):
        model.learn(edit.instruction, edit.query, answer, verify=False)
    return told


def error(change: Tensor, update: Update, keys: Tensor, deltas: Tensor) -> dict[str, float]:
    """How far a change of W as it acts, (N, D) in float64, is from the one that was solved."""
    off = change - update.B @ update.A
    wanted = deltas.double().norm(dim=1)
    return {
        "lost": float(off.norm() / (update.B @ update.A).norm()),
        "rows": float(((keys.double() @ off.T).norm(dim=1) / wanted).mean()),
    }


def measured(name: str | None, dtype: str, form: str, solver: str, facts: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        loaded = load_pair(name, dtype=dtype)
        with Model(loaded, Path(scratch) / "memory", solver=solver, apply=form) as model:
            told = learned(model, facts)
            update = model.update()
            assert update is not None
            rows = [model.fact(fact.id)[1] for fact in model.facts()]
            keys, deltas = torch.cat([r.keys for r in rows]), torch.cat([r.deltas for r in rows])
            W = model.family.projection(model.family.layer(model.transformer, model.layer))
            if form == "merged":
                now = model.family.weight(W).double()
                with model.base_weights():
                    change = now - model.family.weight(W).double()
            else:
                change = update.B.float().double() @ update.A.float().double()
            same = [says(model.ask(query), answer) for query, answer in told]
            return error(change, update, keys, deltas) | {"same": 100 * sum(same) / len(same)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--facts", type=int, default=10)
    parser.add_argument("--solver", default="paper", choices=("paper", "joint"))
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = {
        (dtype, form): measured(args.model, dtype, form, args.solver, args.facts)
        for dtype in args.dtype
        for form in FORMS
    }
    if args.json:
        print(json.dumps([{"dtype": d, "form": f, **x} for (d, f), x in found.items()], indent=2))
        return
    print(f"{args.model or 'embedded'}, {args.facts} facts, solver {args.solver}")
    print(f"{'dtype':<10} {'form':<8} {'lost':>8} {'rows':>8} {'same':>5}")
    for (dtype, form), x in found.items():
        print(f"{dtype:<10} {form:<8} {x['lost']:>8.1e} {x['rows']:>8.1e} {x['same']:>5.0f}")


if __name__ == "__main__":
    main()
