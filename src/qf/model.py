"""A language model that learns: its weights are a function of the base weights and the facts.

`Model` puts the parts together: lesson -> rows (QF-instruct, QF-update) -> W' (solve) -> answer
(QF-infer), and keeps every fact's rows in a memory. Nothing here prints.

    W' = W + ΔW(rows of all remembered facts), always solved from the base W, never by adding up or
    subtracting changes: so the order of teaching plays no part, and forgetting is exact.
"""

from __future__ import annotations

import copy
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch

from qf.calibration import BROUGHT, BROUGHT_GATE
from qf.calibrator import Calibrator
from qf.cues import words
from qf.digest import digest_of
from qf.errors import LessonError, MemoryFault, ModelError, QFError
from qf.export import (
    Exported,
    Imported,
    check_directory,
    check_file,
    compressed,
    parts,
    read_facts,
    whole_directory,
    write_adapter,
    write_facts,
    write_gated,
    write_manifest,
)
from qf.families import family_of, placement
from qf.generate import Around, Generator, after_thoughts
from qf.lesson import (
    PLAIN_CHAT,
    AlignedTokens,
    ChatOptions,
    Lesson,
    Shown,
    Significance,
    check_fits,
    messages,
    pair,
    takes_system,
    told_by,
    without_thoughts,
    writes_tools,
)
from qf.loading import Loaded, load_pair
from qf.memory import Binding, Fact, FactRows, Memory, new_id
from qf.method.calibrate import Traffic
from qf.method.forms import acting, form_of
from qf.method.gate import Gate
from qf.method.layers import default_layer
from qf.method.passes import Rows, pooled, rows, rows_batch, still_needed
from qf.method.readout import Recorded
from qf.method.solve import Update, joint
from qf.picture import Picture
from qf.processes import alone, led
from qf.qf_memory import fingerprint
from qf.recall import Asked, Found, Recall
from qf.room import sizes_told, told_sizes
from qf.study import Ask, reword, rewordings, sentences, write_question

SOLVERS: dict[str, float] = {"paper": 0.0, "joint": 0.01, "gated": 0.01}
"""Ridge λ of each solver: `paper` answers every row exactly (Eq. 3), `joint` all of them gently,
and with C from calibration, which protects what the model does already. With `gated` each fact acts
for the questions that are about it (qf.recall), until it is consolidated as `joint` does it."""

DEFAULT_SOLVER = "gated"
MAX_TOKENS = 128
Image = str | os.PathLike[str] | Any | None
"""A picture: the name of its file, or a `PIL.Image`."""
REWORDINGS = 2
"""Other wordings of a question that a model writes and learns by itself."""
TURNS = (
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hello! How can I help you?"},
)
"""The conversation in whose middle a gated fact is asked when it is verified."""


class Served(Enum):
    """Stands for the system prompt that a model is served with, the first where it has several."""

    first = "first"


SERVED: Literal[Served.first] = Served.first


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


def layer_of_environment() -> int | None:
    """The layer that QF_LAYER names, if it is set; raises ModelError where that is no number."""
    text = os.environ.get("QF_LAYER", "").strip()
    try:
        return int(text) if text else None
    except ValueError:
        raise ModelError(
            f"QF_LAYER is {text!r}: set it to the number of a decoder layer, or not at all."
        ) from None


def default_memory(name: str) -> Path:
    """The directory of a model's facts when none is named: one per model name."""
    from platformdirs import user_data_path

    return user_data_path("qf") / "memory" / re.sub(r"[^\w.-]+", "--", name).strip("-")


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
        if solver not in SOLVERS:
            raise ModelError(f"The solver {solver!r} is unknown: choose gated, joint or paper.")
        self._transformer, self.tokenizer = loaded.transformer, loaded.tokenizer
        self.name, self._directory = loaded.name, loaded.directory
        self._processor, self._pictureless = loaded.processor, loaded.pictureless
        self.family = family_of(loaded.transformer)
        if layer is None:
            layer = usual_layer(memory, len(self.family.layers(loaded.transformer)))
        self.layer, self.solver, self.options = layer, solver, options
        self.systems = (system,) if system is None or isinstance(system, str) else (*system,)
        if not self.systems:
            raise ModelError("There is no system prompt in the list: name one, or None.")
        self.system = self.systems[0]
        self._turns = turns
        if options.tools and not writes_tools(loaded.tokenizer, options):
            raise ModelError(
                f"The chat template of {loaded.name} writes no tools into the prompt: leave out"
                " the tools (--tools)."
            )
        block = self.family.layer(loaded.transformer, layer)
        self._projection = self.family.projection(block)
        # What is chosen or written, the first of the processes does that share a sharded model.
        self._led = led if placement.sharded(self._projection) else alone
        wanted = apply or os.environ.get("QF_APPLY") or "auto"
        self._form = form_of(self.family, self._projection, wanted)
        self._learned: Any = None  # the change of W, as its form has it
        self._calibrated = calibrate and solver != "paper"
        self._gated = solver == "gated"
        self._all_gated = False
        self._unlearned = 0  # how many blocks of `base_weights` are open
        self._lock = threading.RLock()
        self._generator = Generator(loaded.transformer, self.tokenizer)
        self._remembered: dict[str, Remembered] = {}
        self._recall: Recall | None = None
        self._seen = _NEVER
        binding = self._binding(block)
        self._calibrator = Calibrator(
            loaded.transformer,
            self.tokenizer,
            self.family,
            layer,
            self.system,
            binding.digest,
            loaded.directory,
            self._generator.pad_id,
            lambda queries, tokens: self._ask_base(queries, max_tokens=tokens),
            options,
        )
        self._memory = Memory.open(memory, binding)
        self._try_refresh()

    def beside(self, memory: Path) -> Model:
        """The same transformer with the facts of another memory, all of which act behind the gate.

        Several such models share one transformer, one gate and one lock: none of them changes W,
        so that each can answer at any time. Facts that were consolidated act gated here, and stay
        consolidated in the memory. This model itself is to have no facts in W.

        Raises ModelError: this model's solver is not "gated"; MemoryFault as `load` does.
        """
        if not self._gated:
            raise ModelError(
                f"The solver {self.solver!r} keeps facts in the weights, which memories cannot"
                " share: use the solver 'gated'."
            )
        other = copy.copy(self)
        other._all_gated = True
        other._remembered, other._recall, other._seen = {}, None, _NEVER
        with self._lock:
            other._memory = Memory.open(memory, self._memory.binding)
            other._try_refresh()
        return other

    @property
    def transformer(self) -> Any:
        """The Transformers model, its weights those of the base and of all remembered facts.

        With the solver "gated" these are the consolidated facts; the others act in `ask` alone.
        """
        with self._lock:
            self._refresh()
            return self._transformer

    @property
    def placed(self) -> Any:
        """The Transformers model with whatever is in its weights now."""
        return self._transformer

    @property
    def form(self) -> str:
        """How a change of W acts: "merged" into it, or in a "branch" beside it."""
        return self._form.name

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
        picture = self._picture(image)
        prompt = self._asked(query, self._served(system), instruction, earlier, image=picture)
        with self._lock:
            self._refresh()
            return self._answered([prompt], max_tokens, thoughts)[0]

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
        served = self._served(system)
        prompts = [self._asked(q, served, i, earlier) for q, i in zip(queries, told, strict=True)]
        with self._lock:
            self._refresh()
            return self._answered(prompts, max_tokens, thoughts)

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
        picture = self._picture(image)
        prompt = self._asked(query, self._served(system), instruction, earlier, image=picture)
        with sizes_told(self._transformer), self._lock:
            self._refresh()
            around = self._around([prompt])
            pieces = self._generator.stream(prompt.ids, max_tokens, around, prompt.extra)
            with closing(pieces):
                yield from pieces if thoughts else after_thoughts(pieces)

    def asked(self, conversation: Sequence[Mapping[str, str]]) -> Asked:
        """A conversation that ends in a query, as `ask` puts it to the model.

        A system turn at its beginning stands in the place of the prompt that it is served with.
        Raises LessonError as `ask` does.
        """
        system, turns = self.system, list(conversation)
        if turns and turns[0]["role"] == "system":
            system = turns.pop(0)["content"]
        return self._asked(turns[-1]["content"], system, earlier=turns[:-1])

    def asked_text(self, text: str) -> Asked:
        """A text to be gone on with as it is, without the chat template; all of it is the query.

        Raises LessonError: an empty text, or one that does not fit into the context.
        """
        ids = tuple(self.tokenizer(text)["input_ids"])
        if not ids or len(ids) >= self._generator.context:
            raise LessonError(
                f"The text is {len(ids)} tokens long and the model reads 1 to"
                f" {self._generator.context - 1}: change it."
            )
        return Asked(ids, text, (0, len(ids)))

    @told_sizes
    def recalling(self, queries: Sequence[str] = ()) -> Recall | None:
        """The facts that act behind the gate as of now, ready to be called to mind by `queries`.

        For those who run the passes themselves (`qf.recall.acting`); None where there are none.
        """
        with self._lock:
            self._refresh()
            if self._recall is not None:
                self._recall.prepare(queries)
            return self._recall

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
        picture = self._picture(image)
        _check_given(instruction, query, answer, significance, picture)
        with self._lock:
            self._writable()
            self._refresh()
            lesson = self._lesson(instruction, query, answer, significance, picture)
            on_step("question", lesson)
            if rewordings is None:
                rewordings = REWORDINGS if verify else 0
            others = self._rewordings(lesson, rewordings)
            on_step("rewordings", others)
            before = self.ask(lesson.query) if verify else ""
            on_step("before", before)
            said = words(lesson.query)
            asked = {(system, *said) for system in self.systems}
            old = [k for k, r in self._remembered.items() if r.asked in asked]
            replaced = [self._memory.get(k) for k in old]
            kept = {k: r for k, r in self._remembered.items() if k not in old}
            learned = self._learned
            try:
                fact, taught = self._teach(lesson, others, kept, verify, on_step)
                fact = self._led(lambda: replace(fact, before=before))
                if replaced:
                    fact = replace(fact, note=_joined(fact.note, _replaces(replaced)))
                if fact.verified is False and rollback:
                    self._put_back(learned)
                    return replace(fact, note=_joined(fact.note, "rolled back: nothing was kept"))
                old = [f.id for f in replaced]
                self._led(lambda: self._memory.add(fact, taught.rows, replacing=old))
            except BaseException:
                self._put_back(learned)
                raise
            self._remembered = {**kept, fact.id: self._remembering(fact, taught.rows)}
            self._seen = self._version()
            self._gate(self._remembered)
            return fact

    def study(
        self, text: str, *, on_statement: Callable[[Studied], None] = lambda _: None
    ) -> list[Studied]:
        """Learn what a text states, sentence by sentence; the model writes questions and answers.

        A sentence whose fact does not verify, or of which the model can make no question, is left
        out, with the reason. `on_statement` is told of each as it is done.

        Raises LessonError: a text that states nothing. MemoryFault as `learn` does.
        """
        stated = sentences(text)
        if not stated:
            raise LessonError("The text states nothing: give whole sentences, one fact in each.")
        done = []
        for statement in stated:
            try:
                fact = self.learn(statement, rollback=True)
                why = "" if fact.verified else f"it would answer: {fact.after}"
                studied = Studied(statement, fact if fact.verified else None, fact.query, why)
            except LessonError as error:
                studied = Studied(statement, None, "", str(error))
            on_statement(studied)
            done.append(studied)
        return done

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

        `ids` are the learned tokens, for rows that are in W, where tokens left free have none.
        """
        fields = taught.instruction, taught.query, taught.answer, taught.significance
        learned = self._pair(Lesson(*fields), False, self._places()[0])[1].learned
        texts = pieces(self.tokenizer, learned)
        if len(rows.keys) != len(learned) or rows.outputs is None:
            return [LearnedToken(x, t in ids, None) for x, t in zip(texts, learned, strict=True)]
        change = (rows.deltas.norm(dim=1) / rows.outputs.norm(dim=1)).nan_to_num().clamp(0, 1)
        each = zip(texts, rows.significance.tolist(), change.tolist(), strict=True)
        return [LearnedToken(text, s > 0, c) for text, s, c in each]

    def forget(self, fact_id: str) -> Fact:
        """Forget one fact, by its id or the beginning of it: as if it had never been taught.

        Raises MemoryFault: no such fact, or a memory that cannot be written.
        """
        with self._lock:
            fact = self._led(lambda: self._memory.forget(fact_id))
            self._try_refresh()
            return fact

    def forget_all(self) -> int:
        """Forget everything: W is the base W again, bit for bit. Returns how many facts went."""
        with self._lock:
            forgotten = self._led(self._memory.clear)
            self._remembered, self._seen = {}, self._version()
            self._install(self._remembered)
            return forgotten

    @told_sizes
    def consolidate(self) -> Consolidation:
        """Solve the gated facts into W, all that are still answered there; the others stay gated.

        Facts consolidated earlier that are not answered beside the new ones go back behind the
        gate. Raises ModelError where the solver is not "gated", and MemoryFault.
        """
        if not self._gated:
            raise ModelError(
                f"The solver {self.solver!r} keeps every fact in the weights already: consolidate"
                " facts of the solver 'gated'."
            )
        with self._lock:
            self._writable()
            self._refresh()
            facts = {f.id: f for f in self._memory.facts()}
            everyday = self._calibrator.everyday()
            usual, learned = self._answers(everyday), self._learned
            try:
                solved = {k: self._in_solved_form(r) for k, r in self._remembered.items()}
                chosen = [k for k, r in solved.items() if r.count]
                while True:
                    tried = {
                        k: solved[k] if k in chosen else self._in_gated_form(r)
                        for k, r in self._remembered.items()
                    }
                    self._install(tried)
                    holding = self._holding(chosen, facts)
                    if holding == chosen:
                        break
                    chosen = holding
                same = [a == b for a, b in zip(usual, self._answers(everyday), strict=True)]
                done = {
                    k: replace(f, consolidated=tried[k].consolidated, rows=tried[k].count)
                    for k, f in facts.items()
                }
                changed = [
                    (f, tried[k].rows)
                    for k, f in done.items()
                    if f.consolidated != facts[k].consolidated
                ]
                if changed:
                    self._led(lambda: self._memory.update(*changed))
            except BaseException:
                self._put_back(learned)
                raise
            self._remembered, self._seen = tried, self._version()
            rows = sum(f.rows for f in done.values() if f.consolidated)
            return Consolidation(
                consolidated=[f for f in done.values() if f.consolidated],
                gated=[f for f in done.values() if not f.consolidated],
                undisturbed=sum(same) / len(same),
                rows=rows,
                comfortable=self.family.shape(self._projection)[1] // 4,
            )

    def _in_solved_form(self, known: Remembered) -> Remembered:
        """The fact with the rows that it takes to be answered from W."""
        if known.consolidated:
            return known
        if known.lesson.image:  # which is not there to be shown again
            return replace(known, held=known.rows, consolidated=True)
        for _, rehearsed, significance in _attempts(known.lesson.significance, gated=False):
            found = self._record(known.lesson, rehearsed, significance, gated=False)
            if found.open_book_agrees is not False:
                break
        rows = self._with_rewordings(known.lesson, known.others, rehearsed, found)
        return replace(known, held=rows, consolidated=True)

    def _in_gated_form(self, known: Remembered) -> Remembered:
        """The fact with the rows that it takes to act behind the gate."""
        if known.rows.outputs is not None:
            return replace(known, consolidated=False) if known.consolidated else known
        if known.lesson.image:  # taught in the weights, it stays there
            return known
        for _, rehearsed, significance in _attempts(known.lesson.significance, gated=True):
            found = self._record(known.lesson, rehearsed, significance, gated=True, logits=True)
            if found.open_book_agrees:
                break
        return replace(known, held=self._behind_gate(known, found), consolidated=False)

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
            left = self._leaving(facts, max_rank)
            changes, names = [left.update], [""]
            if each:
                changes, names = parts(left.update, left.counts), [f.id for f in left.facts]
            where, base = self._module_name(self._projection), self._source()
            with whole_directory(directory, force) as new:
                named = [
                    write_adapter(new / n, u, where, base)
                    for n, u in zip(names, changes, strict=True)
                ]
                write_manifest(new, "lora", self._memory.binding, left.facts)
        rank = max(u.rank for u in changes)
        name = "" if each else named[0]
        return Exported(directory, left.facts, left.left_out, left.unverified, rank, name)

    @told_sizes
    def save_merged(
        self, directory: Path, facts: Sequence[str] = (), *, force: bool = False
    ) -> Exported:
        """Write the whole model with W + ΔW of the facts, with tokenizer and chat template.

        Which facts, and what is raised, is as with `export_lora`.
        """
        check_directory(directory, force)
        if why := self.family.unwritable(self._projection):
            raise ModelError(
                f"The weights are {why}, so that nothing can be merged into them: export an adapter"
                " (--lora), or load the model whole."
            )
        with self._lock:
            left = self._leaving(facts)
            form = self._form  # where that is merged, it alone knows the base
            if form.name != "merged":
                form = form_of(self.family, self._projection, "merged")
            with self._nothing_gated(), whole_directory(directory, force) as new:
                self._put(None)
                with acting(form, left.update):
                    self._transformer.save_pretrained(new)
                if self._processor is not None:
                    self._processor.save_pretrained(new)
                self.tokenizer.save_pretrained(new)
                write_manifest(new, "merged", self._memory.binding, left.facts)
        return Exported(directory, left.facts, left.left_out, left.unverified)

    @told_sizes
    def export_gated(
        self, file: Path, facts: Sequence[str] = (), *, force: bool = False
    ) -> Exported:
        """Write facts and their gate as one file, and a loader beside it that needs no qf.

        Raises QFError: no facts, or a file that cannot be written.
        """
        check_file(file, force)
        with self._lock:
            chosen, recall = self._selected(facts), Recall(self.gate)
            for k in chosen:
                gated = self._in_gated_form(self._remembered[k])
                if not gated.consolidated:
                    self._let_act(recall, k, gated)
            acting = set(recall.names())
            held = [f for k, f in chosen.items() if k in acting]
            if not held:
                raise ModelError("None of the facts has rows that could act: teach them again.")
            block = self.family.layer(self._transformer, self.layer)
            residual = self.family.residual_point(block)
            if residual is None:
                raise ModelError(
                    f"A gated file cannot act in {self.family.name}, whose layers do not add W u to"
                    " a module's input as it is: take the facts out with --facts."
                )
            below = self.family.layer(self._transformer, recall.gate.layer)
            modules = {
                "taught": self._module_name(self._projection),
                "residual": self._module_name(residual),
                "gate": self._module_name(self.family.projection(below)),
                "inner": self._module_name(self.family.inner(block)),
            }
            told_by = fingerprint(self._transformer, self.tokenizer, modules["inner"])
            binding = self._memory.binding
            name = write_gated(file, held, recall, modules, told_by, binding, force)
        left_out = [f for k, f in chosen.items() if k not in acting]
        return Exported(file, held, left_out, name=name)

    def export_facts(
        self, file: Path, facts: Sequence[str] = (), *, force: bool = False
    ) -> Exported:
        """Write facts with their rows as one file that `import_facts` takes; all at one moment.

        Raises QFError: no facts, or a file that cannot be written.
        """
        check_file(file, force)
        with self._lock:
            found = self._memory.rows(self._selected(facts))
            name = write_facts(file, self._memory.binding, found, force)
        return Exported(file, [f for f, _ in found], name=name)

    @told_sizes
    def import_facts(self, file: Path) -> Imported:
        """Remember the facts in a file, all or none; one of the same query is replaced.

        A fact that is there already, by its id, is left as it is.

        Raises MemoryFault: a file that is none, that is another model's, or a memory that cannot be
        written; weights and memory are as they were then.
        """
        with self._lock:
            self._writable()
            self._refresh()
            found = read_facts(file, self._memory.binding, self.family.shape(self._projection))
            new = [(f, rows) for f, rows in found if f.id not in self._remembered]
            taught = {f.id: self._remembering(f, rows) for f, rows in new}
            asked = {r.asked for r in taught.values()}
            old = [k for k, r in self._remembered.items() if r.asked in asked]
            replaced = [self._memory.get(k) for k in old]
            kept = {k: r for k, r in self._remembered.items() if k not in old}
            learned = self._learned
            try:
                self._install({**kept, **taught})
                if new:
                    self._led(lambda: self._memory.add_all(new, replacing=old))
            except BaseException:
                self._put_back(learned)
                raise
            self._remembered, self._seen = {**kept, **taught}, self._version()
        skipped = [f for f, _ in found if f.id not in taught]
        return Imported([f for f, _ in new], replaced, skipped)

    def _selected(self, names: Sequence[str]) -> dict[str, Fact]:
        """The facts of these ids, or of beginnings of them; all, where none is named."""
        self._refresh()
        facts = [self._memory.get(n) for n in names] if names else self._memory.facts()
        if not facts:
            raise MemoryFault(
                f"The memory {self._memory.directory} is empty: teach a fact with `qf learn` first."
            )
        return {f.id: f for f in facts}

    def _leaving(self, names: Sequence[str], max_rank: int | None = None) -> _Leaving:
        """Facts solved into W as `consolidate` does it; memory and weights stay as they are."""
        facts = self._selected(names)
        with self._nothing_gated():
            known = {k: self._remembered[k] for k in facts}
            if self._gated:
                known = {k: self._in_solved_form(r) for k, r in known.items()}
            chosen = [k for k, r in known.items() if r.count]
            while (update := self._solve([known[k].rows for k in chosen])) is not None:
                self._put(update)
                holding = self._holding(chosen, facts)
                if holding == chosen or not self._gated:
                    break
                chosen = holding
            if update is None:
                raise ModelError(
                    "None of the facts is answered from the weights: export them with --gated, as"
                    " they act now."
                )
            if max_rank is not None and max_rank < update.rank:
                update = compressed(update, max_rank)
                self._put(update)
                holding = self._holding(chosen, facts)
        return _Leaving(
            update,
            [facts[k] for k in chosen],
            [known[k].count for k in chosen],
            [f for k, f in facts.items() if k not in chosen],
            [facts[k] for k in chosen if k not in holding],
        )

    def _holding(self, ids: Sequence[str], facts: Mapping[str, Fact]) -> list[str]:
        """Those of the facts that are answered as when they were learned, by what acts now."""
        asked = [(k, place) for k in ids for place in self._places()]
        answers = self._answers([facts[k].query for k, _ in asked], places=[p for _, p in asked])
        lost = {
            k
            for (k, _), a in zip(asked, answers, strict=True)
            if words(a) != words(facts[k].after or facts[k].answer)
        }
        return [k for k in ids if k not in lost]

    @contextmanager
    def _nothing_gated(self) -> Iterator[None]:
        """Let nothing act behind the gate inside, and W be whatever is put in place there."""
        learned, recall = self._learned, self._recall
        self._recall = None
        try:
            yield
        finally:
            self._learned, self._recall = learned, recall
            self._show()

    def _module_name(self, module: torch.nn.Module) -> str:
        return next(n for n, m in self._transformer.named_modules() if m is module)

    def _source(self) -> str:
        """Where others find the model: its directory, if it has one here, else its name."""
        here = Path(self._directory)
        return str(here.resolve()) if self._directory and here.is_dir() else self.name

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
            if self._gated:
                self._calibrator.measure_gate(into and into / BROUGHT_GATE)
            self._recall = None  # of the gate before
        with self._lock:
            self._install(self._remembered)
        return found

    # What the model writes for its own learning

    def write_question(self, statement: str) -> str:
        """A question that `statement` answers, written by the model itself.

        Raises LessonError when what it writes is no question.
        """
        return write_question(self._ask_base, statement)

    def reword_question(self, question: str) -> str:
        """The same question in other words, written by the model itself."""
        return reword(self._ask_base, question)

    def rewordings(
        self, statements: Sequence[str], questions: Sequence[str], count: int = REWORDINGS
    ) -> list[tuple[str, ...]]:
        """Up to `count` other wordings of each question, written by the model in batches.

        Only those that it answers as it answers the question, when it is told the statement.
        """
        return rewordings(self._ask_base, statements, questions, count)

    # Weights

    @contextmanager
    def base_weights(self) -> Iterator[None]:
        """Let the transformer be what it was before it learned anything, inside the block."""
        with self._lock:
            self._unlearned += 1
            self._show()
            try:
                yield
            finally:
                self._unlearned -= 1
                self._show()

    def update(self) -> Update | None:
        """ΔW of all remembered facts as factors B @ A, or None when there is nothing to change."""
        with self._lock:
            self._refresh()
            solved = [r.rows for r in self._remembered.values() if self._in_weights(r)]
            return self._solve(solved)

    def close(self) -> None:
        """Put the base weights back and let go of the memory."""
        with self._lock:
            self._learned = None
            self._show()
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

    def _lesson(
        self,
        instruction: str,
        query: str | None,
        answer: str | None,
        significance: Significance,
        image: Shown | None,
    ) -> Lesson:
        """Complete what was given; the base weights answer, so that earlier facts play no part."""
        query = self.write_question(instruction) if query is None else query
        if answer is None:
            answer = self._ask_showing(image)([query], [instruction])[0]
            if not answer:
                raise LessonError(
                    f"The model gives no answer to {query!r} with the instruction at hand: give"
                    " one with --answer."
                )
        return Lesson(instruction, query, answer, significance, image)

    def _picture(self, image: Image) -> Shown | None:
        """The picture that is to be shown, if one is."""
        if image is None:
            return None
        if self._processor is None:
            raise ModelError(
                self._pictureless
                or f"The model {self.name!r} is given with no processor of pictures: choose a"
                " vision-language model, such as Qwen/Qwen2.5-VL-3B-Instruct."
            )
        return Picture.of(image, self._processor)

    def _rewordings(self, lesson: Lesson, wanted: int | Sequence[str]) -> tuple[str, ...]:
        if isinstance(wanted, int):
            ask = self._ask_showing(lesson.image)
            return rewordings(ask, [lesson.instruction], [lesson.query], wanted)[0]
        if isinstance(wanted, str) or not all(isinstance(w, str) and w.strip() for w in wanted):
            raise LessonError(
                f"The rewordings {wanted!r} are none: give a number, or a list of questions."
            )
        return tuple(wanted)

    def _teach(
        self,
        lesson: Lesson,
        others: Sequence[str],
        kept: Mapping[str, Remembered],
        verify: bool,
        on_step: OnStep,
    ) -> tuple[Fact, Remembered]:
        """Learn beside the `kept` facts, by the first attempt that verifies.

        Where none does, by the last one of those that are answered in the most places.
        """
        fact_id = self._led(lambda: new_id(kept))
        best: tuple[int, Fact, Remembered] | None = None
        taught, says_otherwise, seconds = None, False, 0.0
        for note, rehearsed, significance in _attempts(lesson.significance, self._gated):
            if says_otherwise and not rehearsed:
                continue
            started = time.perf_counter()
            found = self._record(lesson, rehearsed, significance, self._gated, on_step=on_step)
            says_otherwise = found.open_book_agrees is False
            if says_otherwise and not rehearsed:
                continue
            taught = Remembered(lesson, tuple(others), self.system, _stored([found]))
            if self._gated:
                rows = self._behind_gate(taught, found)
            else:
                rows = self._with_rewordings(lesson, others, rehearsed, found)
            taught = replace(taught, held=rows)
            self._install({**kept, fact_id: taught})
            seconds += time.perf_counter() - started
            on_step("rows", taught.rows)
            verdict = self._verdict(lesson, others) if verify else _UNASKED
            on_step("after", (verdict.after, verdict.verified))
            fact = Fact(
                id=fact_id,
                instruction=lesson.instruction,
                query=lesson.query,
                answer=lesson.answer,
                layer=self.layer,
                rows=taught.count,
                solver=self.solver,
                significance=_plain(lesson.significance),
                system=self.system,
                tokens=found.learned_tokens,
                verified=verdict.verified,
                before="",
                after=verdict.after,
                seconds=seconds,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                note=_joined(note, self._told_by_user(), verdict.note),
                rewordings=tuple(others),
                image=lesson.image.name if lesson.image else "",
                image_sha256=lesson.image.sha256 if lesson.image else "",
            )
            if best is None or verdict.held >= best[0]:
                best = verdict.held, fact, taught
            if fact.verified is not False:
                break
        assert best is not None
        _, fact, chosen = best
        if chosen is not taught:
            self._install({**kept, fact_id: chosen})
        return replace(fact, seconds=seconds), chosen

    def _verdict(self, lesson: Lesson, others: Sequence[str]) -> _Verdict:
        """Ask for a lesson wherever its query is served, and in its other wordings.

        Where no turns are served, the middle of a conversation is told of and does not decide.
        """
        served = self._places()
        places = served + ([_Place(self.system, TURNS)] if self._gated and not self._turns else [])
        answers = self._answers(
            [lesson.query] * len(places) + [*others], places=places + [served[0]] * len(others)
        )
        held = [_holds(lesson, a) for a in answers]
        lost = [p.told for p, h in zip(places, held, strict=False) if not h]
        where = 0 < len(lost) < len(places) and f"not answered {', '.join(lost)}"
        reworded = held[len(places) :].count(False)
        why = reworded and f"{reworded} of {len(others)} rewordings not answered"
        holding = held[: len(served)].count(True)
        return _Verdict(answers[0], holding == len(served), holding, _joined(where or "", why))

    def _places(self) -> list[_Place]:
        """Where a question stands as the model is served, the most usual place first."""
        places = [_Place(system) for system in self.systems]
        return places + ([_Place(self.system, (*self._turns,))] if self._turns else [])

    def _told_by_user(self) -> str:
        return "" if takes_system(self.tokenizer) else _TOLD_BY_USER

    def _with_rewordings(
        self,
        lesson: Lesson,
        others: Sequence[str],
        rehearsed: bool,
        found: Rows,
    ) -> FactRows:
        """The rows of the lesson, and those that its other wordings and places need beside them.

        What is needed is told by the weights that the lesson's own rows alone give, so that other
        facts play no part in it.
        """
        parts = [found]
        first, *places = self._places()
        asked = [(replace(lesson, query=other), first) for other in others]
        asked += [(lesson, place) for place in places]
        if asked:
            pairs = [self._pair(each, rehearsed, place) for each, place in asked]
            self._put(self._solve([_stored([found])]))
            where = self._transformer, self.family, self.layer
            updates = still_needed(*where, [u for _, u in pairs], pad_id=self._generator.pad_id)
            pairs = [(i, u) for (i, _), u in zip(pairs, updates, strict=True) if any(u.weights)]
            if pairs:
                plain: list[Significance] = [None] * len(pairs)
                with self.base_weights():
                    parts += rows_batch(*where, pairs, plain, pad_id=self._generator.pad_id)
        return _stored(parts)

    def _behind_gate(self, known: Remembered, found: Rows) -> FactRows:
        """The rows of a lesson with the outputs that they give, and what the gate finds it by."""
        pooled = self._measured(known)
        layer = self._calibrator.gate().layer
        rows = _stored([found])
        return replace(rows, outputs=found.outputs.cpu(), pooled=pooled, pooled_layer=layer)

    def _record(
        self,
        lesson: Lesson,
        rehearsed: bool,
        significance: Significance,
        gated: bool,
        logits: bool = False,
        on_step: OnStep = lambda _name, _what: None,
    ) -> Rows:
        """QF-instruct and QF-update, under the base weights.

        Behind a gate every token of the answer has its row, those that are left free as well, and
        the pass is cut off in layer i: which tokens the model gives anyway makes no difference.
        """
        if gated and significance == "auto":
            significance = None
        instruct, update = self._pair(lesson, rehearsed, self._places()[0])
        check_fits(instruct, self._generator.context)
        on_step("passes", (instruct, update))
        with self.base_weights():
            return rows(
                self._transformer,
                self.family,
                self.layer,
                instruct,
                update,
                significance,
                pad_id=self._generator.pad_id,
                free=gated,
                logits=logits,
            )

    def _pair(
        self, lesson: Lesson, rehearsed: bool, place: _Place
    ) -> tuple[AlignedTokens, AlignedTokens]:
        return pair(self.tokenizer, lesson, place.system, rehearsed, place.earlier, self.options)

    def _solve(self, parts: Sequence[FactRows]) -> Update | None:
        """ΔW of all these rows."""
        used = [r for r in parts if len(r.keys)]
        if not used:
            return None
        whiten = None
        if self._calibrated:
            with self.base_weights():
                traffic = self._calibrator.traffic()
            whiten = traffic.whiten if traffic else None
        return joint(
            torch.cat([r.keys for r in used]),
            torch.cat([r.deltas for r in used]),
            significance=torch.cat([r.significance for r in used]),
            whiten=whiten,
            ridge=SOLVERS[self.solver],
        )

    def _install(self, remembered: Mapping[str, Remembered]) -> None:
        """Make the model that of the base weights and the remembered facts."""
        change = self._solve([r.rows for r in remembered.values() if self._in_weights(r)])
        self._put(change)
        self._gate(remembered)

    def _put_back(self, learned: Any) -> None:
        """Make the model what it was before a change; solves nothing, and takes no memory."""
        self._learned = learned
        self._show()
        self._gate(self._remembered)

    def _gate(self, remembered: Mapping[str, Remembered]) -> None:
        """Let those of the facts act behind the gate that are not in W, and no others."""
        if not self._gated:
            return
        gated = {k: r for k, r in remembered.items() if not self._in_weights(r)}
        if self._recall is None and gated:
            with self.base_weights():
                self._recall = Recall(self._calibrator.gate())
        if self._recall is None:
            return
        for name in self._recall.names():
            if name not in gated or not self._recall.holds(name, gated[name]):
                self._recall.remove(name)
        for name, fact in gated.items():
            if not self._recall.holds(name, fact):
                self._let_act(self._recall, name, fact)

    def _let_act(self, recall: Recall, name: str, fact: Remembered) -> None:
        """Put a fact behind the gate, unless it has no rows."""
        if fact.count:
            told = fact.lesson.instruction, fact.lesson.answer
            recall.add(name, fact.wordings, lambda: self._found(fact), told=told, origin=fact)

    def _found(self, fact: Remembered) -> Found:
        """What the gate needs of a fact that it looks at."""
        rows, layer = fact.rows, self._calibrator.gate().layer
        if rows.outputs is None or rows.pooled is None:
            made = self._in_gated_form(fact).rows
        elif rows.pooled_layer != layer:
            made = replace(rows, pooled=self._measured(fact), pooled_layer=layer)
        else:
            made = rows
        if made is not rows and isinstance(fact.held, Stored):
            fact.held.completed = made
        assert made.outputs is not None and made.pooled is not None
        return Found(made.pooled, Recorded(made.keys, made.outputs, made.significance))

    def _in_weights(self, fact: Remembered) -> bool:
        return not self._gated or (fact.consolidated and not self._all_gated)

    def _measured(self, fact: Remembered) -> torch.Tensor:
        """The pooled activations of the fact's wordings, in the layer that the gate looks at."""
        with self.base_weights():
            gate = self._calibrator.gate()
            prompts = [self._asked(q, fact.system) for q in fact.wordings]
            spans = [(p.ids, p.span) for p in prompts]
            return pooled(self._transformer, self.family, [gate.layer], spans)[0]

    def _put(self, change: Update | None) -> None:
        """Let the base W and this change act."""
        self._learned = None if change is None else self._form.of(change)
        self._show()

    def _show(self) -> None:
        """Let what was learned act, or inside of `base_weights` nothing."""
        self._form.show(None if self._unlearned else self._learned)

    def _refresh(self) -> None:
        """Follow what any process wrote into the memory since the last look."""
        version = self._version()
        if version != self._seen:
            remembered = {f.id: self._known(f) for f in self._memory.facts()}
            self._install(remembered)
            self._remembered, self._seen = remembered, version

    def _writable(self) -> None:
        """Take the writer's lock; as `Memory.writable` does."""

        def take() -> None:
            self._memory.writable()

        self._led(take)

    def _version(self) -> int:
        """The memory's state, the same for all processes that share the model."""
        return self._led(lambda: self._memory.version)

    def _known(self, fact: Fact) -> Remembered:
        """A fact of the memory; one that acts behind the gate leaves its rows on the disk."""
        known = self._remembered.get(fact.id)
        same = known is not None and known.consolidated == fact.consolidated
        return known if known is not None and same else self._remembering(fact)

    def _remembering(self, fact: Fact, rows: FactRows | None = None) -> Remembered:
        """A fact with its rows, which are read now, if they are to be in W and are not given."""
        image = Picture(fact.image, fact.image_sha256) if fact.image else None
        lesson = Lesson(fact.instruction, fact.query, fact.answer, fact.significance, image)
        stored = Stored(fact.rows, lambda: self._memory.read(fact))
        # A picture is not there to be shown again: what it taught in the weights stays in them.
        in_weights = fact.consolidated or (image is not None and fact.solver != "gated")
        known = Remembered(lesson, fact.rewordings, fact.system, stored, in_weights)
        return replace(known, held=rows or known.rows) if self._in_weights(known) else known

    def _try_refresh(self) -> None:
        """Follow the memory unless rows in it are damaged, which then the first use of them tells.

        So facts can be listed and forgotten, the damaged one among them.
        """
        try:
            self._refresh()
        except MemoryFault:
            self._seen = _NEVER

    def _ask_showing(self, image: Shown | None) -> Ask:
        """How to ask the base weights, with a picture if there is one."""
        return self._ask_base if image is None else partial(self._ask_base, image=image)

    def _ask_base(
        self,
        queries: Sequence[str],
        instructions: Sequence[str] | None = None,
        max_tokens: int = MAX_TOKENS,
        image: Shown | None = None,
    ) -> list[str]:
        """What the model answers by itself, at once: nobody waits for its thoughts."""
        told = instructions or [""] * len(queries)
        options = replace(self.options, thinking=False)
        prompts = [
            self._asked(q, self.system, i, options=options, image=image)
            for q, i in zip(queries, told, strict=True)
        ]
        with self.base_weights():
            return self._answered(prompts, max_tokens)

    def _answers(
        self,
        queries: Sequence[str],
        *,
        places: Sequence[_Place] | None = None,
        max_tokens: int = MAX_TOKENS,
        image: Shown | None = None,
    ) -> list[str]:
        """What the weights that are in place now answer."""
        where = places or [_Place(self.system)] * len(queries)
        prompts = [
            self._asked(q, place.system, earlier=place.earlier, image=image)
            for q, place in zip(queries, where, strict=True)
        ]
        return self._answered(prompts, max_tokens)

    def _answered(
        self, prompts: Sequence[Asked], max_tokens: int, thoughts: bool = False
    ) -> list[str]:
        if any(p.extra for p in prompts):  # pictures differ in size: each prompt by itself
            answers = [
                self._generator.answers([p.ids], max_tokens, self._around([p]), p.extra)[0]
                for p in prompts
            ]
            return answers if thoughts else [without_thoughts(a) for a in answers]
        around = self._around(prompts)
        answers = self._generator.answers([p.ids for p in prompts], max_tokens, around)
        return answers if thoughts else [without_thoughts(a) for a in answers]

    def _served(self, system: str | Served | None) -> str | None:
        return self.system if isinstance(system, Served) else system

    def _around(self, prompts: Sequence[Asked]) -> Around | None:
        """What lets the gated facts act while the prompts are answered."""
        recall = self._recall
        if not recall or self._unlearned:
            return None
        recall.prepare(p.query for p in prompts)

        def recalled(batch: slice, longest: int) -> AbstractContextManager[None]:
            return recall.acting(
                self._transformer, self.family, self.layer, prompts[batch], longest
            )

        return recalled

    def _asked(
        self,
        query: str,
        system: str | None,
        instruction: str = "",
        earlier: Sequence[Mapping[str, str]] = (),
        options: ChatOptions | None = None,
        image: Shown | None = None,
    ) -> Asked:
        if not query.strip():
            raise LessonError("The query is empty: write what to ask.")
        told, how = told_by(system, instruction), options or self.options
        if image is not None:
            shown = messages(query, told, earlier=earlier, image=image.name)
            ids, span, extra = self._generator.prompt_with_image(shown, image, how)
            return Asked(ids, query, span, extra)
        conversation = messages(query, told, earlier=earlier)
        ids, span = self._generator.prompt_with_span(conversation, how)
        return Asked(ids, query, span)

    def _binding(self, block: torch.nn.Module) -> Binding:
        """The fingerprint of the taught layer, the architecture and the chat template."""
        config = self._transformer.config.get_text_config().to_dict()
        names = self._transformer.config.architectures or [type(self._transformer).__name__]
        return Binding(
            digest=digest_of(
                config={k: config[k] for k in _ARCHITECTURE if k in config} | {"layer": self.layer},
                tensors=placement.state_of(block),
                template=self.tokenizer.chat_template or "",
            ),
            model=self.name,
            layer=self.layer,
            architecture=names[0],
        )


class Stored:
    """The rows of a gated fact, which stay on the disk until they are asked for."""

    def __init__(self, count: int, read: Callable[[], FactRows]) -> None:
        self.count, self._read = count, read
        self.completed: FactRows | None = None  # where those on the disk cannot act as they are

    def rows(self) -> FactRows:
        """What is stored, or what was made of it so that it can act."""
        return self._read() if self.completed is None else self.completed


OnStep = Callable[[str, Any], None]
"""Told of the steps of a learn, by name: "question" with the Lesson, "rewordings" with the other
wordings, "before" with the answer; then for each attempt "passes" with the sequences of QF-instruct
and QF-update (AlignedTokens), "rows" with the FactRows, and "after" with (answer, verified)."""


@dataclass(frozen=True)
class LearnedToken:
    """A token of an answer: whether it was learned, and ‖r‖ / ‖y‖, from 0 to 1, where known."""

    text: str
    learned: bool
    change: float | None


@dataclass(frozen=True)
class Remembered:
    """A fact as its model needs it: lesson, other wordings of the query, serving prompt, rows."""

    lesson: Lesson
    others: tuple[str, ...]
    system: str | None
    held: FactRows | Stored
    consolidated: bool = False

    @property
    def rows(self) -> FactRows:
        """The fact's rows, from the disk where they are not at hand."""
        return self.held if isinstance(self.held, FactRows) else self.held.rows()

    @property
    def count(self) -> int:
        """How many rows the fact has."""
        return len(self.held.keys) if isinstance(self.held, FactRows) else self.held.count

    @cached_property
    def asked(self) -> tuple[str | None, ...]:
        """What tells its query from others: the serving prompt, and the query's words."""
        return (self.system, *words(self.lesson.query))

    @property
    def wordings(self) -> tuple[str, ...]:
        """The query in all its wordings, as taught first."""
        return (self.lesson.query, *self.others)


@dataclass(frozen=True)
class Studied:
    """A statement of a text, the fact that was learned of it, if one was, and else why not."""

    statement: str
    fact: Fact | None
    query: str
    why: str


@dataclass(frozen=True)
class Consolidation:
    """Which facts are in W now and which act behind the gate still.

    `undisturbed` is the part of everyday questions that are answered as before, `comfortable` the
    number of rows beyond which W begins to lose what it knew: a quarter of its columns.
    """

    consolidated: list[Fact]
    gated: list[Fact]
    undisturbed: float
    rows: int
    comfortable: int


@dataclass(frozen=True)
class _Place:
    """Where a question stands when the model is served: a system prompt and earlier turns."""

    system: str | None
    earlier: tuple[Mapping[str, str], ...] = ()

    @property
    def told(self) -> str:
        """For people to read: under which prompt, or in what conversation."""
        if self.earlier:
            return "in the middle of a conversation"
        if self.system is None:
            return "under the template's own prompt"
        return f"under the prompt {self.system!r}" if self.system else "without a prompt"


@dataclass(frozen=True)
class _Verdict:
    """The answer to a query, whether it holds wherever it is served, in how many places, a note."""

    after: str
    verified: bool | None
    held: int
    note: str


_UNASKED = _Verdict("", None, 0, "")


@dataclass(frozen=True)
class _Leaving:
    """Facts in one change of W: how many rows are whose, and what it does not do."""

    update: Update
    facts: list[Fact]
    counts: list[int]
    left_out: list[Fact]
    unverified: list[Fact]


_NEVER = -1  # no version that a memory has
_TOLD_BY_USER = (
    "the chat template takes no system turn: the instruction stood in the question's turn"
)
_REHEARSED = "learned from a pass in which the answer had been given once"
_ARCHITECTURE = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps",
    "rope_theta", "rope_parameters", "tie_word_embeddings", "sliding_window",
    "n_embd", "n_layer", "n_head", "alibi", "parallel_attn", "use_parallel_residual",
    "residual_multiplier",
)  # fmt: skip


def _check_given(
    instruction: str,
    query: str | None,
    answer: str | None,
    significance: Significance,
    image: Shown | None,
) -> None:
    """Raise LessonError for what no model is needed to refuse."""
    if image is not None and query is None:
        raise LessonError("A picture may answer many questions: give yours with --query.")
    if answer is None:
        answer, significance = "?", "auto"  # how many words it will have is not known yet
    Lesson(instruction, "?" if query is None else query, answer, significance, image)


def usual_layer(memory: Path, count: int) -> int:
    """The layer that the facts in a memory were taught at, else the paper's depth."""
    bound = Memory.bound_to(memory)
    # A layer that this model has not is another model's, which opening the memory tells better.
    return bound.layer if bound and bound.layer < count else default_layer(count)


def says(answer: str, expected: str) -> bool:
    """Whether an answer holds the expected one: its words in a row; case and punctuation aside.

    >>> says("Oxinnovate was started by Qi.", "started by qi")
    True
    """
    given, wanted = words(answer), words(expected)
    return bool(wanted) and any(
        given[i : i + len(wanted)] == wanted for i in range(len(given) - len(wanted) + 1)
    )


def _holds(lesson: Lesson, answer: str) -> bool:
    """Whether the answer is the lesson's; where some words were left free, whether it holds it."""
    if lesson.significance is None or lesson.significance == "auto":
        return words(answer) == words(lesson.answer)
    return says(answer, lesson.answer)


def _attempts(significance: Significance, gated: bool) -> Iterator[tuple[str, bool, Significance]]:
    """Ways to learn a lesson, the least intrusive first: (note, rehearsed, significance).

    "auto" leaves tokens free that the closed-book pass gave anyway; where the change disturbs
    them, all are learned. Behind a gate nothing is disturbed, and a rehearsed pass, which tells the
    answer most plainly, comes first.
    """
    if gated:
        yield "", True, significance
        yield "learned from a pass without rehearsal", False, significance
        return
    yield "", False, significance
    if significance == "auto":
        yield "learned every token of the answer", False, None
        significance = None
    yield _REHEARSED, True, significance


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, so that together they are the text of all.

    A character of several tokens is given with the last of them.
    """
    found, shown = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=False)
        text = text if not text.endswith("\ufffd") or end == len(ids) else shown
        found.append(text[len(shown) :])
        shown = text
    return found


def _stored(parts: Sequence[Rows]) -> FactRows:
    return FactRows(
        torch.cat([p.keys for p in parts]).cpu(),
        torch.cat([p.deltas for p in parts]).cpu(),
        torch.cat([p.significance for p in parts]).cpu(),
    )


def _plain(significance: Significance) -> Any:
    if significance is None or isinstance(significance, str):
        return significance
    return [float(s) for s in significance]


def _replaces(facts: Sequence[Fact]) -> str:
    return "replaces " + ", ".join(f"{f.id} ({f.answer})" for f in facts)


def _joined(*notes: str | int) -> str:
    return "; ".join(str(note) for note in notes if note)
