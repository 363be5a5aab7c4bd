"""From the lines of a journal to a page of tables and sentences, and to plots. Measures nothing.

Every sentence is made from figures: another journal gives other sentences.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from benchmarks.teachers import METHODS, UNTAUGHT
from qf.errors import QFError
from qf.evaluate.metrics import harmonic_mean

Header: TypeAlias = Mapping[str, Any]

OURS = "gated"
QF = "paper", "joint", "gated", "consolidated"
SHARES = {
    "same": "same words",
    "same_exact": "exactly",
    "other": "other words",
    "other_exact": "exactly",
    "known": "known kept",
    "strangers": "strangers kept",
    "unchanged": "unchanged",
    "conversation": "in a conversation",
    "elsewhere": "under another prompt",
}
SCORED = "same", "other", "known", "strangers"
COSTS = "seconds_per_fact", "steps_per_fact", "writing_per_fact", "mb_per_fact"
PANELS = {
    "efficacy": {"same": "same words, % right", "other": "other words, % right"},
    "locality": {"known": "known before, % still right", "strangers": "strangers, % still unknown"},
    "seconds": {"seconds_per_fact": "seconds per fact"},
}
HALF = 50.0  # percent of facts answered in the same words from which a method is compared
QUICKER = 20.0  # so many times as quick as the methods with a gradient, or it is told why not
SHOWN = 0.05  # differences of fewer points are not told: they do not show in the tables
HOUR, MINUTE = 3600.0, 60.0


@dataclass(frozen=True)
class Cell:
    """One method at one number of facts: percent, seconds and MB, or why there are none."""

    values: Mapping[str, float | None]
    not_learned: int = 0
    why_not: str = ""
    limit: float | None = None  # the seconds that it would have had to keep to

    def __getitem__(self, name: str) -> float | None:
        return self.values.get(name)


@dataclass(frozen=True)
class Results:
    """All cells by (facts, method), and what they were measured with."""

    header: Header
    cells: Mapping[tuple[int, str], Cell]
    parts: Mapping[int, int]

    @property
    def facts(self) -> list[int]:
        """The numbers of facts, rising."""
        return sorted(self.parts)

    def methods(self, facts: int | None = None) -> list[str]:
        """The methods that ran, at this number of facts or at any, in their usual order."""
        counts = self.facts if facts is None else [facts]
        ran = {m for (n, m), cell in self.cells.items() if n in counts and not cell.why_not}
        return [m for m in METHODS if m in ran]

    def learners(self, facts: int) -> list[str]:
        """The methods that answer from what they were taught, and do so for half of the facts."""
        return [
            m
            for m in self.methods(facts)
            if m not in UNTAUGHT and (self.cells[facts, m]["same"] or 0) >= HALF
        ]


def results(header: Header | None, lines: Sequence[Mapping[str, Any]]) -> Results:
    """Put the lines together: shares over all parts, seconds and MB as their median.

    Raises QFError: nothing was measured yet, or the journal is of something else.
    """
    if header is None or "machine" not in header or not lines:
        raise QFError("Nothing is measured there yet: run it without --render, or name --out.")
    found: dict[tuple[int, str], dict[int, Mapping[str, Any]]] = {}
    for line in lines:  # of two lines for the same, the later one holds
        found.setdefault((line["facts"], line["method"]), {})[line["part"]] = line["figures"]
    cells = {key: _cell(list(parts.values())) for key, parts in found.items()}
    parts = {n: max(len(p) for (k, _), p in found.items() if k == n) for n, _ in found}
    return Results(header, cells, parts)


def _cell(parts: Sequence[Mapping[str, Any]]) -> Cell:
    ran = [p for p in parts if "same" in p]
    if not ran:
        return Cell({}, why_not=_why_not(parts[-1]), limit=parts[-1].get("limit"))
    values: dict[str, float | None] = {}
    for name in SHARES:
        counted = [p[name] for p in ran if p.get(name)]
        asked = sum(of for _, of in counted)
        values[name] = 100 * sum(right for right, _ in counted) / asked if asked else None
    for name in COSTS:
        known = [p[name] for p in ran if p.get(name) is not None]
        values[name] = statistics.median(known) if known else None
    values["score"] = harmonic_mean([values[name] for name in SCORED])
    return Cell(values, sum(p.get("not_learned", 0) for p in ran))


def _why_not(figures: Mapping[str, Any]) -> str:
    if "lacks" in figures:
        return f"it needs the package {figures['lacks']}, which is not installed"
    limit = figures["limit"] / MINUTE
    return f"it would take {duration(figures['would_take'])}, and {limit:g} minutes were allowed"


def duration(seconds: float) -> str:
    """A span of time in the unit that suits it.

    >>> duration(5400), duration(90), duration(0.5)
    ('1.5 hours', '1.5 minutes', '0.50 seconds')
    """
    if seconds >= HOUR:
        return f"{seconds / HOUR:.1f} hours"
    return f"{seconds / MINUTE:.1f} minutes" if seconds >= MINUTE else f"{seconds:.2f} seconds"


# The page


def markdown(found: Results, images: str = "images", out: str = "build/results") -> str:
    """The whole page; `images`: where its plots are, seen from it."""
    plots = [f"![{title}]({images}/results-{name}.png)" for name, title in _TITLES.items()]
    sections = [
        ["# Results", "", *_opening(found, out)],
        ["## What the figures say", "", *(f"- {s}" for s in sentences(found))],
        ["## What qf cannot do", "", *(f"- {s}" for s in limits(found))],
        ["## Against the number of facts", "", *_spaced(plots)],
        *(_of_facts(found, n) for n in found.facts),
        *(_of_method(found, m) for m in found.methods()),
        ["## How it was measured", "", *_how(found)],
    ]
    return "\n\n".join("\n".join(lines).rstrip() for lines in sections) + "\n"


_TITLES = {
    "efficacy": "Right answers to what was taught, by the number of facts",
    "locality": "Answers beside what was taught, by the number of facts",
    "seconds": "Seconds to teach a fact, by the number of facts",
}


def _opening(found: Results, out: str) -> list[str]:
    return [
        f"Made-up facts taught to the {found.header['model']} model, the same facts by each method,"
        " and the same questions asked about them and beside them. The command that measures also"
        " writes this page, and makes every sentence of it from its figures:",
        "",
        f"    {command(found, out)}",
    ]


def command(found: Results, out: str) -> str:
    """The command that measures these figures."""
    words = ["python", "benchmarks/results.py", "--facts", *map(str, found.facts)]
    words += ["--out", out]
    methods = [m for m in METHODS if any(m == name for _, name in found.cells)]
    if len(methods) < len(METHODS):
        words += ["--methods", *methods]
    allowed = {cell.limit for cell in found.cells.values() if cell.limit}
    words += [w for limit in allowed for w in ("--minutes-each", f"{limit / MINUTE:g}")][-2:]
    return shlex.join([*words, *found.header["given"]])


def _of_facts(found: Results, facts: int) -> list[str]:
    title = f"## {count(facts)}"
    about = (
        [f"Each of {found.parts[facts]} facts alone in an empty memory, put together.", ""]
        if facts == 1
        else []
    )
    rows = [
        [m, *_shares(found.cells[facts, m]), *_costs(found, facts, m)] for m in found.methods(facts)
    ]
    lines = [title, "", *about, *table(["method", *_SHARE_TITLES, *_COST_TITLES], rows)]
    if skipped := list(_skipped(found, facts)):
        lines += ["", *(f"- {s}" for s in skipped)]
    return lines


def _of_method(found: Results, method: str) -> list[str]:
    rows = [
        [str(n), *_shares(found.cells[n, method]), *_costs(found, n, method)]
        for n in found.facts
        if (n, method) in found.cells and not found.cells[n, method].why_not
    ]
    says = METHODS[method].says
    return [f"## {method}: {says}", "", *table(["facts", *_SHARE_TITLES, *_COST_TITLES], rows)]


_SHARE_TITLES = ["S", *SHARES.values()]
_COST_TITLES = ["s per fact", f"× {OURS}", "MB per fact"]


def _shares(cell: Cell) -> list[str]:
    return [number(cell[name]) for name in ("score", *SHARES)]


def _costs(found: Results, facts: int, method: str) -> list[str]:
    cell = found.cells[facts, method]
    seconds, ratio = cell["seconds_per_fact"], _times(found, facts, method)
    return [number(seconds, 3), number(ratio, 2), number(cell["mb_per_fact"], 2)]


def _times(found: Results, facts: int, method: str) -> float | None:
    """How many times as long as ours a method takes per fact."""
    ours = found.cells.get((facts, OURS), Cell({}))["seconds_per_fact"]
    own = found.cells[facts, method]["seconds_per_fact"]
    return own / ours if ours and own is not None else None


def _skipped(found: Results, facts: int) -> Iterator[str]:
    for m in METHODS:
        cell = found.cells.get((facts, m))
        if cell and cell.why_not:
            yield f"`{m}` was not run: {cell.why_not}."
        elif cell and cell.not_learned:
            yield f"`{m}` could not learn {count(cell.not_learned)}."


def _how(found: Results) -> list[str]:
    header = found.header
    machine, versions = header["machine"], header["versions"]
    writing = [
        found.cells[n, OURS]["writing_per_fact"] for n in found.facts if (n, OURS) in found.cells
    ]
    known = [w for w in writing if w is not None]
    written = f" ({number(statistics.median(known), 3)} s per fact)" if known else ""
    reworded = listed([f"`{m}`" for m in found.methods() if METHODS[m].reworded])
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        f"- **Machine**: {machine['cpu']}, {machine['cores']} cores, {header['threads']} threads,"
        f" on {machine['device']}.",
        f"- **Versions**: {names}.",
        f"- **Model**: {header['model']}, sha256 {header['model_digest'][:16]}…; qf teaches layer"
        f" {header['layer']}.",
        f'- **Facts**: the generator\'s, `qf.evaluate.material.prepare("generated", n,'
        f" {header['seed']})`, under a seed that training did not use.",
        "- **Answers**: greedy, through the chat template. The untouched model reads the statement"
        " and gives the answer to learn, or the fact's own where that is wrong; every method is"
        " taught the same answer. The model also writes other wordings of the question, which"
        f" are learned as well by {reworded or 'no method'}. Reading and writing{written} are not"
        " in the seconds.",
        "- **same words, other words, in a conversation, under another prompt**: the answer holds"
        " the fact's, word for word (articles, case and punctuation aside); *exactly*: and nothing"
        " else. Other words are the generator's, not those that were learned.",
        "- **known kept, strangers kept**: of the questions beside the facts that were answered"
        " rightly before, those that still are; strangers are asked about nobody knows what, and"
        ' right is "I do not know." **unchanged**: all answers beside the facts that are what they'
        " were, letter for letter.",
        "- **S**: the harmonic mean of same words, other words, known kept and strangers kept.",
        "- **s per fact**: where facts are taught one by one, the median; else all seconds by all"
        " facts. What is measured once per model does not count. **MB per fact**: the most memory"
        " in use while teaching, above the loaded model, by the number of facts.",
        "- Every method begins from the same weights; after each, their digest is compared.",
    ]


# The sentences


def sentences(found: Results) -> list[str]:
    """What the figures say of all methods, and which have none."""
    said = [_best(found, n) for n in found.facts]
    others = [m for m in found.methods() if m not in (*UNTAUGHT, *QF)]
    said += [
        *(_course(found, m) for m in others),
        _unready(found),
        _speed(found),
        *_left_out(found),
    ]
    return [s for s in said if s]


def limits(found: Results) -> list[str]:
    """What the figures say against us."""
    said = [s for n in found.facts for s in (_missed(found, n), _behind(found, n))]
    said += [_not_so_quick(found, m) for m in found.methods()]
    said += [_course(found, m) for m in found.methods() if m in QF]
    return [s for s in said if s] or ["These figures tell nothing that it cannot do."]


def _left_out(found: Results) -> list[str]:
    """What was not run or not learned, once for all numbers of facts that it is true of."""
    told: dict[str, list[str]] = {}
    for n in found.facts:
        for sentence in _skipped(found, n):
            told.setdefault(sentence, []).append(count(n))
    return [f"{listed(where)}: {sentence}" for sentence, where in told.items()]


def _best(found: Results, facts: int) -> str:
    """Who has the highest S, and how far we are behind or ahead."""
    scores = {m: found.cells[facts, m]["score"] for m in found.learners(facts)}
    ranked = sorted((-s, m) for m, s in scores.items() if s is not None)
    if not ranked:
        return f"{count(facts)}: no method answers half of them in the same words."
    best, name = -ranked[0][0], ranked[0][1]
    text = f"{count(facts)}: `{name}` has the highest S, {number(best)}"
    if name == OURS:
        second = (
            f", before `{ranked[1][1]}` with {number(-ranked[1][0])}" if len(ranked) > 1 else ""
        )
        return f"{text}{second}."
    ours = found.cells.get((facts, OURS), Cell({}))["score"]
    if ours is None:
        return f"{text}."
    return f"{text}; `{OURS}` has {number(ours)}, {number(best - ours)} points less."


def _behind(found: Results, facts: int) -> str:
    """In which columns another method is ahead of us."""
    ours = found.cells.get((facts, OURS), Cell({}))
    told = []
    for name in (*SCORED, "conversation", "elsewhere"):
        own = ours[name]
        others = [
            (v, m) for m in found.learners(facts) if (v := found.cells[facts, m][name]) is not None
        ]
        if own is None or not others:
            continue
        best, method = max(others, key=lambda pair: pair[0])
        if best - own > SHOWN:
            told.append(f"{SHARES[name]} by {number(best - own)} points (`{method}`)")
    return f"{count(facts)}: `{OURS}` is behind in {listed(told)}." if told else ""


def _missed(found: Results, facts: int) -> str:
    """What we fail to do."""
    cell = found.cells.get((facts, OURS), Cell({}))
    failed = {n: 100 - v for n in SHARES if "exact" not in n and (v := cell[n]) is not None}
    asked = {"same": "asked in the same words", "other": "asked in other words"}
    asked |= {n: f"asked {SHARES[n]}" for n in ("conversation", "elsewhere")}
    unanswered = [
        f"{number(failed[n])} % {how}" for n, how in asked.items() if failed.get(n, 0) > SHOWN
    ]
    lost = [
        f"{number(failed[n])} % of {what}"
        for n, what in (("known", "what was known"), ("strangers", "the strangers"))
        if failed.get(n, 0) > SHOWN
    ]
    told = [f"does not answer {listed(unanswered)}"] if unanswered else []
    told += [f"answers {listed(lost)} no longer as it should"] if lost else []
    return f"{count(facts)}: `{OURS}` {' and '.join(told)}." if told else ""


def _course(found: Results, method: str) -> str:
    """From which number of facts on a method that worked no longer does."""
    scores = [
        (n, s)
        for n in found.facts
        if (n, method) in found.cells and (s := found.cells[n, method]["score"]) is not None
    ]
    if len(scores) < 2 or scores[0][1] < HALF:
        return ""
    first, start = scores[0]
    for n, score in scores[1:]:
        if score < start / 2:
            return (
                f"`{method}` collapses at {count(n)}: its S is {number(score)}, and"
                f" {number(start)} at {count(first)}."
            )
    last, end = scores[-1]
    return (
        f"`{method}` has an S of {number(start)} at {count(first)} and {number(end)} at"
        f" {count(last)}."
    )


def _unready(found: Results) -> str:
    """Which methods answer no more than the model that was taught nothing."""
    idle = []
    for m in found.methods():
        pairs = [
            (found.cells[n, m]["same"], found.cells[n, "none"]["same"])
            for n in found.facts
            if m in found.methods(n) and "none" in found.methods(n)
        ]
        if m != "none" and pairs and all((own or 0) <= (none or 0) for own, none in pairs):
            idle.append(f"`{m}`")
    if not idle:
        return ""
    return (
        f"Not ready to be compared with: {listed(idle)}, no better than `none` in the same words."
    )


def _speed(found: Results) -> str:
    """Who teaches faster than we do, and who slower, at the most facts that it ran with."""
    compared = {m: _slower(found, m) for m in found.methods() if m != OURS}
    told = [
        f"`{m}` {number(slower[1], 2)} ({count(slower[0])})"
        for m, slower in compared.items()
        if slower
    ]
    return f"Seconds per fact, those of `{OURS}` being 1: {listed(told)}." if told else ""


def _slower(found: Results, method: str) -> tuple[int, float] | None:
    """The most facts that a method ran with, and how many times as long as ours it took then."""
    for n in reversed(found.facts):
        if method in found.methods(n) and (ratio := _times(found, n, method)):
            return n, ratio
    return None


def _not_so_quick(found: Results, method: str) -> str:
    """Why a method with a gradient takes fewer than QUICKER times as long as ours."""
    slower = _slower(found, method)
    if slower is None or slower[1] >= QUICKER:
        return ""
    n, ratio = slower
    steps = found.cells[n, method]["steps_per_fact"]
    if not steps:
        return ""
    return (
        f"`{OURS}` is {number(ratio)} times as quick as `{method}` with {count(n)}, not"
        f" {QUICKER:g} times: `{method}` finds what to store in {number(steps)} steps of"
        f" gradient descent per fact, and one takes {number(ratio / steps, 2)} times as long as"
        f" `{OURS}` takes for a fact."
    )


# Words and numbers


def number(value: float | None, digits: int = 1) -> str:
    """A number as the tables show it.

    >>> number(99.96), number(None), number(0.1234, 3)
    ('100.0', '-', '0.123')
    """
    return "-" if value is None else f"{value:.{digits}f}"


def count(facts: int) -> str:
    """A number of facts in words.

    >>> count(1), count(1000)
    ('1 fact', '1,000 facts')
    """
    return f"{facts:,} fact{'s' if facts != 1 else ''}"


def listed(parts: Sequence[str]) -> str:
    """Parts as a list in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers on the right.

    >>> table(["method", "S"], [["none", "0.0"]])
    ['| method | S |', '|---|--:|', '| none | 0.0 |']
    """
    rule = "|---|" + "--:|" * (len(titles) - 1)
    return [f"| {' | '.join(titles)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def _spaced(lines: Sequence[str]) -> list[str]:
    return [part for line in lines for part in (line, "")]


# The plots

# Okabe and Ito's colours, which all eyes tell apart, without their yellow, too pale for a line;
# markers and dashes tell apart what colour does not. Greys are not methods of learning.
_LOOKS = {
    "none": ("#999999", "", ":"),
    "prompt": ("#666666", "", "--"),
    "retrieval": ("#000000", "s", "--"),
    "paper": ("#E69F00", "v", "-"),
    "joint": ("#D55E00", "^", "-"),
    "gated": ("#0072B2", "o", "-"),
    "consolidated": ("#0072B2", "^", "--"),
    "finetune": ("#009E73", "D", "--"),
    "lora": ("#009E73", "P", ":"),
    "grace": ("#CC79A7", "X", "--"),
    "rome": ("#56B4E9", "<", ":"),
    "memit": ("#56B4E9", ">", "--"),
}
_ASIDE = 2.5  # points by which markers stand apart, so that those of equal figures are all seen
_PAPER = "#ffffff"  # not transparent, so that it reads on a dark page as well


def plots(found: Results) -> dict[str, Any]:
    """The figures by name, matplotlib's: a line for each method against the number of facts."""
    return {name: _plot(found, name, panels) for name, panels in PANELS.items()}


def _plot(found: Results, name: str, panels: Mapping[str, str]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(panels) + 1.6, 3.8), dpi=150, layout="constrained")
    figure.set_facecolor(_PAPER)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (value, title) in zip(axes, panels.items(), strict=True):
        _lines(ax, found, value)
        ax.set(xlabel="facts taught", title=title, xscale="log")
        ax.margins(x=0.08)
        _seconds_axis(ax) if name == "seconds" else ax.set(ylim=(-2, 104))
        ax.autoscale_view()
        ax.set_xticks(found.facts, [f"{n:,}" for n in found.facts])
        ax.xaxis.set_tick_params(which="minor", bottom=False, labelbottom=False)
        ax.grid(axis="y", color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    handles = {line.get_label(): line for ax in axes for line in ax.lines}
    order = [m for m in METHODS if m in handles]
    figure.legend(
        [handles[m] for m in order], order, frameon=False, loc="outside right upper", handlelength=3
    )
    return figure


def _seconds_axis(ax: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set(yscale="log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _lines(ax: Any, found: Results, value: str) -> None:
    from matplotlib.transforms import ScaledTranslation

    methods = found.methods()
    for place, method in enumerate(methods):
        points = [
            (n, v)
            for n in found.facts
            if method in found.methods(n) and (v := found.cells[n, method][value]) is not None
        ]
        if not points:
            continue
        colour, marker, dashes = _LOOKS[method]
        ours = method == OURS
        ax.update_datalim(points)  # which it does not see through a transform of their own
        aside = _ASIDE * (place - (len(methods) - 1) / 2) / 72  # inches
        ax.plot(
            *zip(*points, strict=True),
            color=colour,
            marker=marker or None,
            linestyle=dashes,
            linewidth=2.6 if ours else 1.3,
            markersize=5.5 if ours else 4.5,
            zorder=3 if ours else 2,
            label=method,
            clip_on=False,
            transform=ax.transData + ScaledTranslation(aside, 0, ax.figure.dpi_scale_trans),
        )
