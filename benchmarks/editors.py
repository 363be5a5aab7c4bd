"""What ROME and MEMIT reach on a model with other options than the ones they come with.

    python benchmarks/editors.py rome --facts 1 10 100 --set chunk=1 layer=6
    python benchmarks/editors.py rome --facts 8 --set chunk=None steps=300 --targets

Percent of made-up facts, whose answers are sentences. ES: the answer is more probable than what the
model said before (ROME's rewrite success); exact, other: generated as it is, to the question and in
other words; kept: of the questions beside the facts that were answered rightly before. With
--targets nothing is stored: the targets δ are put in their places by hand, the most that storing
them could reach.
"""

from __future__ import annotations

import argparse
import ast
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks is not installed

from benchmarks.baselines import Taught, method
from benchmarks.baselines.descent import output_of, states
from benchmarks.baselines.targets import Editor
from qf.evaluate.material import GENERATED, Beside, Material, prepare
from qf.evaluate.metrics import contains, exact
from qf.loading import load_pair

SINGLES = 10  # facts that are each taught alone, to tell what a single one reaches
OTHERS = 30  # at most so many facts are asked in other words


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    loaded, told = load_pair(args.model), " ".join(args.set)
    options = {n: ast.literal_eval(v) for n, v in (word.split("=", 1) for word in args.set)}
    depth, kind = loaded.transformer.config.get_text_config().num_hidden_layers, method(args.method)
    layer = options.pop("layer", kind.own_layer(depth, depth - 1))
    editor = kind(loaded, layer, max_tokens=40, **options)
    trial = Trial(editor, prepare(GENERATED, max(*args.facts, SINGLES), args.seed))
    print(f"Without an edit: exact {trial.untaught:.0f}. Layer {layer} of 0 to {depth - 1}.")
    for count in args.facts:
        started = time.perf_counter()
        figures = trial.targets(count) if args.targets else trial.taught(count)
        names = ("loss per token", "exact") if args.targets else ("ES", "exact", "other", "kept")
        said = ", ".join(f"{n} {figure:.4g}" for n, figure in zip(names, figures, strict=True))
        seconds = time.perf_counter() - started
        print(f"{args.method} {told}, {count} facts: {said} ({seconds:.0f} s)", flush=True)
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=("rome", "memit"))
    parser.add_argument("--facts", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE")
    parser.add_argument("--targets", action="store_true", help="store nothing")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--model")
    return parser.parse_args(argv)


class Trial:
    """Facts, what is asked beside them, and what the model said before."""

    def __init__(self, editor: Editor, material: Material) -> None:
        self.editor, self.edits = editor, material.edits
        self.facts = [Taught(e.instruction, e.query, e.target, e.subject) for e in self.edits]
        self.before = editor.ask_many([f.query for f in self.facts])
        self.untaught = _percent([exact(*x) for x in zip(self.before, self._answers, strict=True)])
        beside = material.beside[::6]
        said = editor.ask_many([b.query for b in beside])
        self.beside = [b for b, a in zip(beside, said, strict=True) if contains(a, str(b.answer))]

    @property
    def _answers(self) -> list[str]:
        return [f.answer for f in self.facts]

    def taught(self, count: int) -> Sequence[float]:
        """ES, exact, other and kept in percent; of one fact, over SINGLES of them."""
        groups = [[i] for i in range(SINGLES)] if count == 1 else [list(range(count))]
        found: list[list[bool]] = [[], [], [], []]
        for group in groups:
            self.editor.teach([self.facts[i] for i in group])
            beside = self.beside[group[0] :: SINGLES] if count == 1 else self.beside
            for all_of_them, new in zip(found, self._look(group, beside), strict=True):
                all_of_them.extend(new)
            self.editor.undo()
        return [_percent(right) for right in found]

    def _look(self, group: Sequence[int], beside: Sequence[Beside]) -> list[list[bool]]:
        facts = [self.facts[i] for i in group]
        new = self.editor.probabilities([(f.query, f.answer) for f in facts])
        old = self.editor.probabilities([(self.facts[i].query, self.before[i]) for i in group])
        said = self.editor.ask_many([f.query for f in facts])
        others = [self.edits[i].rewordings[0] for i in group[:OTHERS]]
        around = self.editor.ask_many([b.query for b in beside])
        return [
            [n > o for n, o in zip(new, old, strict=True)],
            [exact(a, f.answer) for a, f in zip(said, facts, strict=True)],
            [
                exact(a, f.answer)
                for a, f in zip(self.editor.ask_many(others), facts[:OTHERS], strict=True)
            ],
            [contains(a, str(b.answer)) for a, b in zip(around, beside, strict=True)],
        ]

    def targets(self, count: int) -> Sequence[float]:
        """Loss per token with the targets in their places, and answers as they are in percent."""
        self.editor.prepare([])
        found = [self._in_place(fact) for fact in self.facts[:count]]
        return sum(loss for loss, _ in found) / count, _percent([right for _, right in found])

    def _in_place(self, fact: Taught) -> tuple[float, bool]:
        editor, situations = self.editor, self.editor.situations(fact)
        tokens, places = situations[0].tokens, torch.tensor(situations[0].places)
        deltas = editor.deltas(fact, situations, editor.layer)

        def add(_: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
            at = torch.zeros_like(places), places
            return output.index_put(at, deltas.to(output), accumulate=True)

        with torch.no_grad(), output_of(editor.projection(), add):
            top = states(editor.model, [tokens.input_ids], editor.generator.pad_id)[0]
            said = editor.model.get_output_embeddings()(top[list(tokens.positions)]).float()
        learned = torch.tensor(tokens.learned)
        return cross_entropy(said, learned).item(), said.argmax(1).tolist() == learned.tolist()


def _percent(right: Sequence[bool]) -> float:
    return 100 * sum(right) / len(right) if right else float("nan")
