"""Every method of the comparison behind one face: teach, ask, undo.

Ours run through `qf.evaluate.run`, the others through `benchmarks.baselines`. Knows nothing of
figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from benchmarks.baselines import METHODS as BASELINES
from benchmarks.baselines import Baseline, Taught, method
from qf.evaluate.run import CONSOLIDATED, WARM_UP, Bench, Told, learn, solver_of, warm_up
from qf.model import MAX_TOKENS


@dataclass(frozen=True)
class Method:
    """How a method is run.

    `reworded`: it learns the model's own other wordings of each question as well; those that have
    a way of their own to reach other contexts, or need none, learn the question alone.
    `together`: it takes all facts at once; then `trial` facts tell how long all would take.
    `needs`: the package without which it cannot run.
    """

    says: str
    reworded: bool = False
    together: bool = False
    trial: int = 0
    needs: str = ""


METHODS = {
    "none": Method("nothing is taught"),
    "prompt": Method("each question has its own statement in the prompt"),
    "retrieval": Method(
        "the statement that BM25 finds stands in the prompt", together=True, needs="bm25s"
    ),
    "paper": Method("Eq. 3 of the paper, in the weights"),
    "joint": Method("all rows in the weights at once, protected", reworded=True),
    "gated": Method("each fact behind its gate: the default of `qf learn`", reworded=True),
    CONSOLIDATED: Method(
        "the gated facts moved into the weights; what is not answered there stays gated",
        reworded=True,
        together=True,
        trial=32,
    ),
    "finetune": Method("AdamW on W", reworded=True, together=True, trial=32),
    "lora": Method("an adapter of W", reworded=True, together=True, trial=32, needs="peft"),
    "grace": Method("a codebook beside W", reworded=True),
    "rome": Method("a change of one layer, fact after fact"),
    "memit": Method("a change of up to five layers", together=True, trial=2),
}
UNTAUGHT = "none", "prompt"


def missing(name: str) -> str:
    """The package that a method lacks here, or ""."""
    needs = METHODS[name].needs
    return needs if needs and find_spec(needs) is None else ""


class Teacher(Protocol):
    """Teaches facts to the model of a bench; `undo` leaves the model as it was, bit for bit."""

    def teach(self, lessons: Sequence[Told]) -> int:
        """Teach, beside what was taught before; return how many could not be learned."""

    def ask_many(
        self,
        queries: Sequence[str],
        instructions: Sequence[str] | None = None,
        *,
        earlier: Sequence[Mapping[str, str]] = (),
    ) -> list[str]:
        """Greedy answers, each as if asked alone."""

    def undo(self) -> None:
        """Forget everything."""

    def begin(self) -> None:
        """Be ready to teach from nothing, once more after `undo`."""


class Ours:
    """A qf model with an empty memory, warmed up, until `undo`; `begin` opens another."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.name, self._bench, self._open = name, bench, ExitStack()
        self.begin()

    def begin(self) -> None:
        """Open a model with an empty memory."""
        self.model = self._open.enter_context(self._bench.opened(solver_of(self.name)))
        warm_up(self.model)
        self.ask_many = self.model.ask_many

    def teach(self, lessons: Sequence[Told]) -> int:
        """Learn one fact after the other."""
        failed = sum(not learn(self.model, lesson) for lesson in lessons)
        if self.name == CONSOLIDATED:
            self.model.consolidate()
        return failed

    def undo(self) -> None:
        """Close the model: its weights are the base weights again, and the memory is gone."""
        self._open.close()


class Other:
    """A baseline; each wording of a lesson's question is a fact to it."""

    def __init__(self, baseline: Baseline) -> None:
        self.baseline, self.ask_many, self.undo = baseline, baseline.ask_many, baseline.undo
        statement, query, answer = WARM_UP  # what is measured once per model is measured here
        baseline.teach([Taught(statement, query, answer)])
        baseline.undo()

    def begin(self) -> None:
        """Nothing is missing."""

    def teach(self, lessons: Sequence[Told]) -> int:
        """Teach all at once where the method can."""
        self.baseline.teach(
            [
                Taught(edit.instruction, query, answer, edit.subject or None)
                for edit, answer, others in lessons
                for query in (edit.query, *others)
            ]
        )
        return 0


class Teachers:
    """Makes a method's teacher; a baseline once for all benches of one model."""

    def __init__(self) -> None:
        self._others: dict[str, Other] = {}

    def of(self, bench: Bench, name: str) -> Teacher:
        """A teacher that has taught nothing yet."""
        if name not in BASELINES:
            return Ours(bench, "paper" if name in UNTAUGHT else name)
        if name not in self._others:
            kind = method(name)
            depth = bench.loaded.transformer.config.get_text_config().num_hidden_layers
            layer, system = kind.own_layer(depth, bench.layer), bench.settings.system
            self._others[name] = Other(
                kind(bench.loaded, layer, system=system, max_tokens=MAX_TOKENS)
            )
        return self._others[name]
