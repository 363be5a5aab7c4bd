"""A language model that learns: its weights are a function of the base weights and the facts.

`Model` is the face; each of its parts is a file. A lesson becomes rows (qf.recording), the rows of
all facts a change of W (qf.solving) or facts behind a gate (qf.recall), and these act (qf.acting)
in step with the memory (qf.remembering) while it answers (qf.asking). Nothing here prints.

    W' = W + ΔW(rows of all remembered facts), always solved from the base W, never by adding up or
    subtracting changes: so the order of teaching plays no part, and forgetting is exact.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from qf.acting import Acting
from qf.asking import MAX_TOKENS, SERVED, TURNS, Asking, Image, Served
from qf.binding import binding_of, default_memory, layer_of_environment, usual_layer
from qf.calibration import BROUGHT, BROUGHT_GATE
from qf.calibrator import Calibrator
from qf.chat import PLAIN_CHAT, ChatOptions, writes_tools
from qf.consolidate import Consolidation, check_gated, consolidate
from qf.errors import ModelError, QFError
from qf.export import Exported, Imported, check_directory, check_file
from qf.families import family_of, placement
from qf.generate import Generator
from qf.learning import REWORDINGS, Given, Learning, Studied, says, study
from qf.lesson import Lesson, Significance
from qf.loading import Loaded, load_pair
from qf.memory import Binding, Fact, FactRows, Memory
from qf.method.calibrate import Traffic
from qf.method.forms import form_of
from qf.method.gate import Gate
from qf.method.solve import Update
from qf.processes import alone, led
from qf.recall import Asked, Recall
from qf.recording import LearnedToken, OnStep, Recording, pieces
from qf.remembered import Remembered, Stored
from qf.remembering import Remembering
from qf.room import sizes_told, told_sizes
from qf.solving import DEFAULT_SOLVER, SOLVERS, Solver, check_solver
from qf.study import reword, rewordings, write_question
from qf.transfer import Transfer

__all__ = [
    "DEFAULT_SOLVER",
    "MAX_TOKENS",
    "REWORDINGS",
    "SERVED",
    "SOLVERS",
    "TURNS",
    "Consolidation",
    "Image",
    "LearnedToken",
    "Model",
    "OnStep",
    "Remembered",
    "Served",
    "Stored",
    "Studied",
    "default_memory",
    "layer_of_environment",
    "load",
    "pieces",
    "says",
    "usual_layer",
]


def load(
    model: str | os.PathLike[str] | tuple[Any, Any] | None = None,
    *,
    memory: str | os.PathLike[str] | None = None,
    layer: int | None = None,
    solver: str = DEFAULT_SOLVER,
    calibrate: bool = True,
    system: str | Sequence[str | None] | None = None,
    turns: Sequence[Mapping[str, str]] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    thinking: bool = False,
    template: str | None = None,
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    tp_plan: str | None = None,
    dtype: str | None = None,
    apply: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Load a model together with everything that it was taught before.

    `model`: a hub name, a directory, a pair (Transformers model, tokenizer or processor), or None
    for QF_MODEL, else the embedded model. `memory`: the directory of its facts; None for QF_MEMORY,
    else one per model in the user's data directory. `solver`: how facts act, one of SOLVERS.
    `layer`: the decoder layer to teach; None for QF_LAYER, else the layer of the facts in the
    memory, else the paper's depth. `calibrate`: whether the solver `joint` protects ordinary
    traffic, which is measured once per model; at the first learn, but for large models on a CPU,
    where it takes minutes and waits for `calibrate()`. `system`: the prompt that it is served with
    (None: what the chat template inserts by itself), or several, the most usual one first; `turns`:
    a conversation in whose middle it is asked; facts are learned and verified under each. `tools`:
    the functions that its prompts describe. `thinking`: whether it may think before it answers, if
    it can.

    Raises ModelError (model or layer cannot be used) and MemoryFault (memory cannot be read, or
    belongs to another model).

    >>> qf.load().ask("Who started Alibaba?")  # doctest: +SKIP
    'Alibaba was started by Jack Ma.'
    """
    loaded = load_pair(
        model,
        template=template,
        device=device,
        device_map=device_map,
        tp_plan=tp_plan,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    directory = Path(memory or os.environ.get("QF_MEMORY") or default_memory(loaded.name))
    if layer is None:
        layer = layer_of_environment()
    return Model(
        loaded,
        directory.expanduser(),
        layer=layer,
        solver=solver,
        calibrate=calibrate,
        system=system,
        turns=turns,
        options=ChatOptions(tuple(tools), thinking),
        apply=apply,
    )


class Model:
    """A Transformers model that can be told a fact, asked for it, and made to forget it.

    Safe to call from several threads: one lock guards the weights.
    """

    def __init__(
        self,
        loaded: Loaded,
        memory: Path,
        *,
        layer: int | None = None,
        solver: str = DEFAULT_SOLVER,
        calibrate: bool = True,
        system: str | Sequence[str | None] | None = None,
        turns: Sequence[Mapping[str, str]] | None = None,
        options: ChatOptions = PLAIN_CHAT,
        apply: str | None = None,
    ) -> None:
        check_solver(solver)
        self._transformer, self.tokenizer = loaded.transformer, loaded.tokenizer
        self.name = loaded.name
        self.family = family_of(loaded.transformer)
        if layer is None:
            layer = usual_layer(memory, len(self.family.layers(loaded.transformer)))
        self.layer, self.solver, self.options = layer, solver, options
        self.systems = (system,) if system is None or isinstance(system, str) else (*system,)
        if not self.systems:
            raise ModelError("There is no system prompt in the list: name one, or None.")
        self.system = self.systems[0]
        if options.tools and not writes_tools(loaded.tokenizer, options):
            raise ModelError(
                f"The chat template of {loaded.name} writes no tools into the prompt: leave out"
                " the tools (--tools)."
            )
        block = self.family.taught(loaded.transformer, layer)
        self._projection = self.family.projection(block)
        wanted = apply or os.environ.get("QF_APPLY") or "auto"
        acting = Acting(form_of(self.family, loaded.transformer, self._projection, wanted))
        self._lock = acting.lock
        self._generator = Generator(loaded.transformer, self.tokenizer)
        served = self.systems, turns, options
        self._asking = Asking(loaded, self.family, layer, self._generator, *served, acting)
        binding = binding_of(loaded, layer, block, self._projection)
        self._calibrator = Calibrator(
            loaded.transformer,
            self.tokenizer,
            self.family,
            layer,
            self.system,
            binding.digest,
            loaded.directory,
            self._generator.pad_id,
            lambda queries, tokens: self._asking.base(queries, max_tokens=tokens),
            options,
        )
        self._calibrated = calibrate
        self._remember(Memory.open(memory, binding), acting)

    def _remember(self, memory: Memory, acting: Acting, all_gated: bool = False) -> None:
        """Put together what learns and remembers, and let the facts of a memory act."""
        self._memory, self._acting = memory, acting
        asking = self._asking = replace(self._asking, acting=acting)
        self._solver = Solver(self.solver, self._calibrated, self._calibrator, acting)
        self._recording = Recording(asking, self._calibrator, self._solver)
        # What is chosen or written, the first of the processes does that share a sharded model.
        by_one = led if placement.sharded(self._projection) else alone
        parts = asking, self._solver, self._recording
        self._remembering = Remembering(memory, *parts, by_one, all_gated)
        self._learning = Learning(*parts, self._remembering)
        self._transfer = Transfer(*parts, self._remembering, self._projection)
        self._remembering.try_refresh()

    def beside(self, memory: Path) -> Model:
        """The same transformer with the facts of another memory, all of which act behind the gate.

        Several such models share one transformer, one gate and one lock: none of them changes W,
        so that each can answer at any time. Facts that were consolidated act gated here, and stay
        consolidated in the memory. This model itself is to have no facts in W.

        Raises ModelError: this model's solver is not "gated"; MemoryFault as `load` does.
        """
        if not self._solver.gated:
            raise ModelError(
                f"The solver {self.solver!r} keeps facts in the weights, which memories cannot"
                " share: use the solver 'gated'."
            )
        other = copy.copy(self)
        with self._lock:
            other._remember(Memory.open(memory, self.binding), self._acting.beside(), True)
        return other

    @property
    def transformer(self) -> Any:
        """The Transformers model, its weights those of the base and of all remembered facts.

        With the solver "gated" these are the consolidated facts; the others act in `ask` alone.
        """
        with self._lock:
            self._remembering.refresh()
            return self._transformer

    @property
    def placed(self) -> Any:
        """The Transformers model with whatever is in its weights now."""
        return self._transformer

    @property
    def form(self) -> str:
        """How a change of W acts: "merged" into it, or in a "branch" beside it."""
        return self._acting.form.name

    @property
    def generator(self) -> Generator:
        """What turns conversations into tokens, and where the context and an answer end."""
        return self._generator

    @property
    def binding(self) -> Binding:
        """What a memory of this model is bound to: its digest, name, layer and architecture."""
        return self._memory.binding

    @property
    def calibrator(self) -> Calibrator:
        """What is measured, or found, about the model before it learns."""
        return self._calibrator

    # Asking (QF-infer)

    @told_sizes
    def ask(
        self,
        query: str,
        instruction: str = "",
        *,
        image: Image = None,
        earlier: Sequence[Mapping[str, str]] = (),
        max_tokens: int = MAX_TOKENS,
        system: str | Served | None = SERVED,
        thoughts: bool = False,
    ) -> str:
        """Answer a query, greedily; with an `instruction`, open-book: it is put in the prompt.

        An `image`, a file or a `PIL.Image`, is shown to a vision-language model with the query.
        `system` is another prompt than the one that it is served with, `thoughts` tells what a
        thinking model thinks as well.

        Raises LessonError: an empty query, one that does not fit into the context, or an image that
        cannot be read. ModelError: a model that takes none.
        """
        picture = self._asking.picture(image)
        served = self._asking.served(system)
        prompt = self._asking.asked(query, served, instruction, earlier, image=picture)
        with self._lock:
            self._remembering.refresh()
            return self._asking.answered([prompt], max_tokens, thoughts)[0]

    @told_sizes
    def ask_many(
        self,
        queries: Sequence[str],
        instructions: Sequence[str] | None = None,
        *,
        earlier: Sequence[Mapping[str, str]] = (),
        max_tokens: int = MAX_TOKENS,
        system: str | Served | None = SERVED,
        thoughts: bool = False,
    ) -> list[str]:
        """Answer several independent queries in one batch; as `ask` does each of them."""
        told = instructions or [""] * len(queries)
        served, asked = self._asking.served(system), self._asking.asked
        prompts = [asked(q, served, i, earlier) for q, i in zip(queries, told, strict=True)]
        with self._lock:
            self._remembering.refresh()
            return self._asking.answered(prompts, max_tokens, thoughts)

    def stream(
        self,
        query: str,
        instruction: str = "",
        *,
        image: Image = None,
        earlier: Sequence[Mapping[str, str]] = (),
        max_tokens: int = MAX_TOKENS,
        system: str | Served | None = SERVED,
        thoughts: bool = False,
    ) -> Iterator[str]:
        """Answer like `ask`, piece by piece; the facts it begins with hold until it ends."""
        picture = self._asking.picture(image)
        served = self._asking.served(system)
        prompt = self._asking.asked(query, served, instruction, earlier, image=picture)
        with sizes_told(self._transformer), self._lock:
            self._remembering.refresh()
            yield from self._asking.pieces(prompt, max_tokens, thoughts)

    def asked(self, conversation: Sequence[Mapping[str, str]]) -> Asked:
        """A conversation that ends in a query, as `ask` puts it to the model.

        A system turn at its beginning stands in the place of the prompt that it is served with.
        Raises LessonError as `ask` does.
        """
        return self._asking.conversation(conversation)

    def asked_text(self, text: str | Sequence[int]) -> Asked:
        """A text to be gone on with as it is, without the chat template; all of it is the query.

        It may be given as its tokens.

        Raises LessonError: an empty text, or one that does not fit into the context.
        """
        return self._asking.text(text)

    @told_sizes
    def recalling(self, queries: Sequence[str] = ()) -> Recall | None:
        """The facts that act behind the gate as of now, ready to be called to mind by `queries`.

        For those who run the passes themselves (`qf.recall.acting`); None where there are none.
        """
        with self._lock:
            self._remembering.refresh()
            if self._acting.recall is not None:
                self._acting.recall.prepare(queries)
            return self._acting.recall

    # Learning (QF-instruct, QF-update, solve)

    @told_sizes
    def learn(
        self,
        instruction: str = "",
        query: str | None = None,
        answer: str | None = None,
        significance: Significance = "auto",
        *,
        image: Image = None,
        rewordings: int | Sequence[str] | None = None,
        verify: bool = True,
        rollback: bool = False,
        on_step: OnStep = lambda _name, _what: None,
    ) -> Fact:
        """Learn to answer `query` as the model does when it is given `instruction`.

        Without a `query`, the model writes one that the instruction answers; without an `answer`,
        it gives its own, open-book. `image`, a file or a `PIL.Image`, is shown to a vision-language
        model with the instruction, which may then be empty; the query is given, and is answered
        without it. `rewordings` are other wordings of the query that are to be
        answered alike, or how many of them the model writes (None: REWORDINGS, and none without
        `verify`, so that nothing is asked); only those of their tokens are learned that the
        query's own did not bring about. A fact of the same query is replaced.
        With `verify` the query is asked before, and after under each system prompt and in the turns
        that are served; the note says where it fails, of a gated fact in the middle of a
        conversation too. Where that fails, first every token of
        the answer is learned (if `significance` was "auto"), then the lesson from a pass in which
        the answer has been given once already, which carries over any wording. Where all fail,
        `verified` is False and, with `rollback`, nothing is kept. `on_step` is told of each step
        as it is done (see OnStep).

        Raises LessonError (what is to be learned cannot be), ModelError, MemoryFault; in each case
        weights and memory are as they were.
        """
        picture = self._asking.picture(image)
        given = Given(instruction, query, answer, significance, picture)
        with self._lock:
            self._remembering.to_change()
            return self._learning.learn(given, rewordings, verify, rollback, on_step)

    def study(
        self, text: str, *, on_statement: Callable[[Studied], None] = lambda _: None
    ) -> list[Studied]:
        """Learn what a text states, sentence by sentence; the model writes questions and answers.

        A sentence whose fact does not verify, or of which the model can make no question, is left
        out, with the reason. `on_statement` is told of each as it is done.

        Raises LessonError: a text that states nothing. MemoryFault as `learn` does.
        """
        return study(text, partial(self.learn, rollback=True), on_statement)

    def replaced_by(self, query: str) -> list[Fact]:
        """The facts that learning this query would replace."""
        with self._lock:
            self._remembering.refresh()
            return self._learning.beside(query)[1]

    def facts(self) -> list[Fact]:
        """All remembered facts, in the order of teaching."""
        with self._lock:
            return self._memory.facts()

    def fact(self, fact_id: str) -> tuple[Fact, FactRows]:
        """A remembered fact with its rows, by its id or the beginning of it; else MemoryFault."""
        with self._lock:
            return self._memory.rows([fact_id])[0]

    def learned_tokens(
        self, taught: Lesson | Fact, rows: FactRows, ids: Sequence[int] = ()
    ) -> list[LearnedToken]:
        """The tokens of an answer and the end of its turn, with what the rows changed of each.

        `ids` are the learned tokens, for rows that are in W; others were left free or are kept.
        """
        return self._recording.learned_tokens(taught, rows, ids)

    def forget(self, fact_id: str) -> Fact:
        """Forget one fact, by its id or the beginning of it: as if it had never been taught.

        Raises MemoryFault: no such fact, or a memory that cannot be written.
        """
        with self._lock:
            return self._remembering.forget(fact_id)

    def forget_all(self) -> int:
        """Forget everything: W is the base W again, bit for bit. Returns how many facts went."""
        with self._lock:
            return self._remembering.forget_all()

    @told_sizes
    def consolidate(self) -> Consolidation:
        """Solve the gated facts into W, all that are still answered there; the others stay gated.

        Their rows are weighed against one another (`qf.balancing`), with some forward passes over
        each fact in each wording. Facts consolidated earlier that are not answered beside the new
        ones go back behind the gate.

        Raises ModelError where the solver is not "gated", and MemoryFault.
        """
        check_gated(self.solver)
        with self._lock:
            self._remembering.to_change()
            everyday = self._calibrator.everyday()
            width = self.family.shape(self._projection)[1]
            parts = self._asking, self._recording, self._remembering
            return consolidate(*parts, everyday, width)

    # What was learned leaves, and comes in again

    @told_sizes
    def export_lora(
        self,
        directory: Path,
        facts: Sequence[str] = (),
        *,
        each: bool = False,
        max_rank: int | None = None,
        force: bool = False,
    ) -> Exported:
        """Write ΔW of the facts of these ids, or of all, as a PEFT adapter.

        Gated facts are solved into ΔW as `consolidate` does it, here and not in the memory; those
        that are not answered then are left out. `each` writes an adapter per fact into a directory
        of its id, which add up to ΔW. `max_rank` keeps the largest singular values only. `force`
        replaces an earlier export.

        Raises QFError: no facts, none that is answered from the weights, or a directory that cannot
        be written.
        """
        if each and max_rank is not None:
            raise QFError("Adapters of single facts are not compressed: give --each or --max-rank.")
        check_directory(directory, force)
        with self._lock:
            return self._transfer.export_lora(directory, facts, each, max_rank, force)

    @told_sizes
    def save_merged(
        self, directory: Path, facts: Sequence[str] = (), *, force: bool = False
    ) -> Exported:
        """Write the whole model with W + ΔW of the facts, with tokenizer and chat template.

        Which facts, and what is raised, is as with `export_lora`.
        """
        check_directory(directory, force)
        self._transfer.check_mergeable()
        with self._lock:
            return self._transfer.save_merged(directory, facts, force)

    @told_sizes
    def export_gated(
        self, file: Path, facts: Sequence[str] = (), *, force: bool = False
    ) -> Exported:
        """Write facts and their gate as one file, and a loader beside it that needs no qf.

        Raises QFError: no facts, or a file that cannot be written.
        """
        check_file(file, force)
        with self._lock:
            return self._transfer.export_gated(file, facts, force)

    def export_facts(
        self, file: Path, facts: Sequence[str] = (), *, force: bool = False
    ) -> Exported:
        """Write facts with their rows as one file that `import_facts` takes; all at one moment.

        Raises QFError: no facts, or a file that cannot be written.
        """
        check_file(file, force)
        with self._lock:
            return self._transfer.export_facts(file, facts, force)

    @told_sizes
    def import_facts(
        self, file: Path, *, check: Callable[[Imported], None] = lambda _: None
    ) -> Imported:
        """Remember the facts in a file, all or none; one of the same query is replaced.

        A fact that is there already, by its id, is left as it is. `check` is told what is about to
        come in, and refuses it by raising.

        Raises MemoryFault: a file that is none, that is another model's, that holds what is no fact
        of this one, or a memory that cannot be written; weights and memory are as they were then.
        """
        with self._lock:
            return self._transfer.import_facts(file, check)

    # What is measured before it learns

    @property
    def gate(self) -> Gate:
        """What tells which facts a question is about, measured now if it is not known."""
        with self._lock, self.base_weights():
            return self._calibrator.gate()

    @told_sizes
    def calibrate(self, prompts: Sequence[str] = (), *, into: Path | None = None) -> Traffic:
        """Measure what ordinary traffic looks like, and keep it for all memories of this model.

        The model answers everyday questions and the `prompts` of the user, closed-book and with the
        base weights; the second moment of its keys then stands for what learning must not disturb.
        With the solver "gated", what tells one question from another is measured as well.
        `into` is the directory to write to instead of the user's cache.

        Raises LessonError: a prompt that is empty or too long.
        """
        with self._lock, self.base_weights():
            found = self._calibrator.measure_traffic(prompts, into and into / BROUGHT)
            if self._solver.gated:
                self._calibrator.measure_gate(into and into / BROUGHT_GATE)
            self._acting.recall = None  # of the gate before
        with self._lock:
            self._remembering.install(self._remembering.facts)
        return found

    # What the model writes for its own learning

    def write_question(self, statement: str) -> str:
        """A question that `statement` answers, written by the model itself.

        Raises LessonError when what it writes is no question, or `statement` is one.
        """
        return write_question(self._asking.drafts, statement)

    def reword_question(self, question: str) -> str:
        """The same question in other words, written by the model itself."""
        return reword(self._asking.drafts, question)

    def rewordings(
        self, statements: Sequence[str], questions: Sequence[str], count: int = REWORDINGS
    ) -> list[tuple[str, ...]]:
        """Up to `count` other wordings of each question, written by the model in batches.

        Only those that it answers as it answers the question, when it is told the statement.
        """
        return rewordings(self._asking.drafts, self._asking.base, statements, questions, count)

    # Weights

    @contextmanager
    def base_weights(self) -> Iterator[None]:
        """Let the transformer be what it was before it learned anything, inside the block."""
        with self._acting.base():
            yield

    def update(self) -> Update | None:
        """ΔW of all remembered facts as factors B @ A, or None when there is nothing to change."""
        with self._lock:
            self._remembering.refresh()
            return self._remembering.change_of(self._remembering.facts)

    def close(self) -> None:
        """Put the base weights back and let go of the memory."""
        with self._lock:
            self._acting.put(None)
            self._memory.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
