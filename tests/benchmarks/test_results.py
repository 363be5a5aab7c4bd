"""The comparison of all methods: what it counts, what it goes on from, and what it writes.

The model is random and answers in capital letters; each method still has to leave it as it was.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import qf.calibrator
from benchmarks import measuring, results, teachers
from benchmarks.baselines import grace, targets
from benchmarks.baselines.finetune import FineTune
from benchmarks.measuring import COMPARED, Asked, Plan, TooLongError, counts, measure, taught
from benchmarks.report import Results, limits, markdown, plots
from benchmarks.report import results as put_together
from benchmarks.teachers import METHODS, Method
from qf.errors import QFError
from qf.evaluate import material
from qf.evaluate.datasets import Edit
from qf.evaluate.journal import Journal
from qf.evaluate.material import GENERATED, Beside, Material, prepare
from qf.evaluate.run import Bench, Settings
from qf.loading import Loaded
from qf.paraphrases import paraphrases

HERE = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[2] / "docs"
ORDINARY = ["Who are you?", "How are you?", "What is the capital of France?", "Where is Paris?"]
QUICK = Plan([2], ["none", "paper", "finetune"], singles=2, settings=Settings(layer=3))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few questions and few steps."""
    monkeypatch.setattr(material, "AROUND", 6)
    monkeypatch.setattr(qf.calibrator, "paraphrases", lambda _: paraphrases(6))
    monkeypatch.setattr(qf.calibrator, "everyday", lambda _: ORDINARY)
    monkeypatch.setattr(targets, "everyday", lambda: ORDINARY)
    monkeypatch.setattr(grace, "everyday", lambda: ORDINARY)


@pytest.fixture
def loaded(speaker: Any) -> Loaded:
    return Loaded(*speaker(max_position_embeddings=2048), "speaker")


def state(loaded: Loaded) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: (value.detach().clone(), value.requires_grad)
        for name, value in loaded.transformer.named_parameters()
    }
    found["modules"] = [type(m) for m in loaded.transformer.modules()]
    found["hooks"] = [len(m._forward_hooks) for m in loaded.transformer.modules()]
    found["training"] = [m.training for m in loaded.transformer.modules()]
    return found


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        if isinstance(value, tuple):
            assert torch.equal(value[0], after[name][0]) and value[1] == after[name][1], name
        else:
            assert value == after[name], name


# The methods


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_measured_and_leaves_the_model_as_it_was(
    name: str, loaded: Loaded, tmp_path: Path
) -> None:
    if needs := METHODS[name].needs:
        pytest.importorskip(needs)
    before, journal = state(loaded), Journal(tmp_path / "journal", COMPARED)
    measure(loaded, replace(QUICK, methods=[name]), journal)
    assert_same(before, state(loaded))
    (line,) = journal.lines
    assert (line["method"], line["facts"], line["part"]) == (name, 2, 0)
    found = line["figures"]
    assert [found[x][1] for x in ("same", "same_exact")] == [2, 2]
    assert found["other"][1] >= 2 and found["unchanged"][1] >= 4
    if name == "none":
        assert found["unchanged"][0] == found["unchanged"][1]
        assert found["conversation"] is None and "seconds_per_fact" not in found
    else:
        assert found["conversation"][1] == found["elsewhere"][1] == 2
    if name not in ("none", "prompt"):
        assert found["seconds_per_fact"] > 0 and found["not_learned"] == 0


def test_what_leaves_the_model_changed_is_refused(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTune, "undo", lambda _: None)
    journal = Journal(tmp_path / "journal", COMPARED)
    with pytest.raises(QFError, match=r"^The method 'finetune' left the model changed: .*\.$"):
        measure(loaded, QUICK, journal)
    assert [line["method"] for line in journal.lines] == ["none", "paper"]


def test_a_baseline_learns_every_wording_and_no_answer_but_ours(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []
    monkeypatch.setattr(FineTune, "teach", lambda _, facts: learned.append(list(facts)))
    material = prepare(GENERATED, 2)
    bench = Bench(loaded, material, Settings(layer=3), lambda _: None)
    edit = material.edits[0]
    teachers.Teachers().of(bench, "finetune").teach([(edit, "SAID", ("Other?",))])
    facts = [(f.statement, f.query, f.answer, f.subject) for f in learned[-1]]
    assert edit.subject and edit.subject in edit.query
    assert facts == [
        (edit.instruction, query, "SAID", edit.subject) for query in (edit.query, "Other?")
    ]


# The counts


def test_counts_by_hand() -> None:
    def edit(target: str, *others: str) -> Edit:
        return Edit("", "", "", "", target, "", "", others, (), "")

    unknown = "I do not know."
    beside = [("1", "x"), ("2", "x"), ("3", unknown), ("4", unknown), ("5", unknown)]
    material = Material(
        "", 1, (edit("Qi", "a", "b"), edit("Rome", "c")), tuple(Beside(*b, "") for b in beside), {}
    )
    asked = Asked(
        own=["It is Qi.", "rome"],
        others=[["Qi", "Qiang"], ["Paris"]],
        beside=["it is x", "x", unknown, "Qi", "y"],
        conversation=["Qi", "no"],
        elsewhere=None,
    )
    assert counts(material, ["x", "no", unknown, unknown, "y"], asked) == {
        "same": [2, 2],
        "same_exact": [1, 2],
        "other": [1, 3],
        "other_exact": [1, 3],
        "known": [1, 1],  # the second was wrong before
        "strangers": [1, 2],
        "unchanged": [2, 5],
        "conversation": [1, 2],
        "elsewhere": None,
    }


# The clock


class Clocked:
    """A teacher to whom facts take the seconds that it is given, and the clock beside it."""

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.now, self.taught, self.undone = list(seconds), 0.0, [], 0

    def perf_counter(self) -> float:
        return self.now

    def teach(self, lessons: Sequence[Any]) -> int:
        for _ in lessons:
            self.now += self.seconds[len(self.taught)]
            self.taught.append(_)
        return 0

    def begin(self) -> None:
        assert self.undone

    def undo(self) -> None:
        self.undone += 1
        self.taught = []


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clocked]:
    def make(*seconds: float) -> Clocked:
        teacher = Clocked(*seconds)
        monkeypatch.setattr(measuring, "time", teacher)
        return teacher

    return make


def test_one_by_one_the_median_counts_and_the_first_facts_tell(
    clocked: Callable[..., Clocked],
) -> None:
    lessons: list[Any] = list("abcde")
    assert taught(clocked(1, 9, 2, 2, 2), lessons, Method(""), 16.0) == (2, 0, 0)
    teacher = clocked(1, 2, 9, 1, 1)
    with pytest.raises(TooLongError) as error:
        taught(teacher, lessons, Method(""), 15.0)
    assert error.value.seconds == 16 and len(teacher.taught) == 3  # 12, and twice the median


def test_together_a_part_is_tried_first(clocked: Callable[..., Clocked]) -> None:
    lessons: list[Any] = list("abcdef")
    together = Method("", together=True, trial=2)
    teacher = clocked(1, 2, 3, 3, 3, 3)
    assert taught(teacher, lessons, together, 9.0) == (2.5, 0, 0) and teacher.undone == 1
    teacher = clocked(1, 2, 3, 3, 3, 3)
    with pytest.raises(TooLongError) as error:
        taught(teacher, lessons, together, 8.0)
    assert error.value.seconds == 9 and teacher.undone == 1


@pytest.mark.parametrize("together", [False, True])
def test_steps_of_descent_are_counted_without_those_of_the_trial(together: bool) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)

    class Stepping:
        undo = begin = staticmethod(lambda: None)

        def teach(self, lessons: Sequence[int]) -> int:
            for _ in range(sum(lessons)):
                optimizer.step()
            return 0

    method = Method("", together=together, trial=2)
    lessons: list[Any] = [7, 1, 4]
    assert taught(Stepping(), lessons, method, 60.0).steps == 4  # type: ignore[arg-type]
    optimizer.step()
    assert taught(Stepping(), lessons, method, 60.0).steps == 4  # type: ignore[arg-type]


# The journal


def test_it_goes_on_where_it_was(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, plan = tmp_path / "journal", replace(QUICK, facts=[1, 2], methods=["none", "paper"])
    measure(loaded, plan, Journal(file, COMPARED))
    whole = file.read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    wanted = [(1, 0), (1, 1), (2, 0)]
    assert [(x["facts"], x["part"], x["method"]) for x in lines[1:]] == [
        (*where, method) for where in wanted for method in ("none", "paper")
    ]
    asked = [sum(x["figures"]["unchanged"][1] for x in lines[i::2]) for i in (1, 2)]
    assert asked == [2 * lines[-1]["figures"]["unchanged"][1]] * 2  # shared by the single facts

    file.write_bytes(whole[:-9])  # cut off in the last line
    one, ran = measuring._one, []
    monkeypatch.setattr(
        measuring, "_one", lambda b, name, *rest: ran.append(name) or one(b, name, *rest)
    )
    measure(loaded, plan, Journal(file, COMPARED))
    assert ran == ["paper"]
    again = [json.loads(line) for line in file.read_bytes().splitlines()]
    timed = ("seconds_per_fact", "writing_per_fact", "mb_per_fact")
    for line in (again[-1], lines[-1]):
        line["figures"] = {k: v for k, v in line["figures"].items() if k not in timed}
    assert again == lines
    measure(loaded, plan, Journal(file, COMPARED))
    assert ran == ["paper"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seed": 2}, "seed 1, not 2"),
        ({"singles": 3}, "singles 2, not 3"),
        ({"settings": Settings(layer=2)}, "layer 3, not 2"),
        ({"model": 6}, "another model"),
        ({"cpu": "abacus"}, "machine .*'abacus'"),
    ],
)
def test_a_journal_of_other_settings_is_refused(
    loaded: Loaded,
    speaker: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    why: str,
) -> None:
    file, plan = tmp_path / "journal", replace(QUICK, methods=["none"])
    measure(loaded, plan, Journal(file, COMPARED))
    before = file.read_bytes()
    if "model" in change:
        loaded = Loaded(*speaker(seed=6, max_position_embeddings=2048), "speaker")
    elif "cpu" in change:
        monkeypatch.setattr(measuring, "_cpu", lambda: "abacus")
    else:
        plan = replace(plan, **change)
    with pytest.raises(QFError, match=rf"other settings \(.*{why}.*\).*--out\.$"):
        measure(loaded, plan, Journal(file, COMPARED))
    assert file.read_bytes() == before


def test_what_takes_too_long_is_left_out_until_it_may(loaded: Loaded, tmp_path: Path) -> None:
    file, before = tmp_path / "journal", state(loaded)
    plan = replace(QUICK, facts=[4], methods=["paper"], minutes=1e-9)
    measure(loaded, plan, Journal(file, COMPARED))
    assert_same(before, state(loaded))
    figures = Journal(file).figures["paper"]
    assert set(figures) == {"would_take", "limit"} and figures["would_take"] > 0
    measure(loaded, plan, Journal(file, COMPARED))
    assert len(Journal(file).lines) == 1
    measure(loaded, replace(plan, minutes=10), Journal(file, COMPARED))
    assert "same" in Journal(file).lines[1]["figures"]


def test_a_package_that_is_missing_is_told(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, plan = tmp_path / "journal", replace(QUICK, methods=["none", "retrieval"])
    monkeypatch.setattr(teachers, "find_spec", lambda _: None)
    measure(loaded, plan, Journal(file, COMPARED))
    journal = Journal(file)
    assert journal.figures["retrieval"] == {"lacks": "bm25s"}
    page = markdown(put_together(journal.header, journal.lines))
    assert "`retrieval` was not run: it needs the package bm25s, which is not installed." in page


def test_a_plan_that_cannot_be() -> None:
    with pytest.raises(QFError, match=r"^The method 'best' is unknown: .*gated.*\.$"):
        replace(QUICK, methods=["best"])
    for change, option in (
        ({"facts": [10, 0]}, "--facts"),
        ({"facts": []}, "--facts"),
        ({"singles": 0}, "--singles"),
        ({"minutes": 0}, "--minutes-each"),
    ):
        with pytest.raises(QFError, match=rf"^{option} is 0: .*\.$"):
            replace(QUICK, **change)


# The page


@pytest.fixture
def given() -> Results:
    journal = Journal(HERE / "results.jsonl", COMPARED)
    return put_together(journal.header, journal.lines)


def test_the_page_of_a_given_journal(given: Results) -> None:
    assert markdown(given) == (HERE / "RESULTS.md").read_text(encoding="utf-8")


def test_the_published_page_is_what_its_figures_say() -> None:
    journal = Journal(DOCS / "results.jsonl", COMPARED)
    found = put_together(journal.header, journal.lines)
    assert markdown(found) == (DOCS / "RESULTS.md").read_text(encoding="utf-8")


def test_parts_are_put_together_by_what_was_asked(given: Results) -> None:
    cell = given.cells[1, "gated"]
    assert (cell["same"], cell["other"], cell["known"]) == (50.0, 75.0, 80.0)
    assert cell["seconds_per_fact"] == pytest.approx(0.2)
    assert given.cells[100, "grace"].why_not.startswith("it would take 1.5 hours")


def test_it_tells_why_it_is_not_twenty_times_as_quick(given: Results) -> None:
    (said,) = [s for s in limits(given) if "times as quick" in s]
    assert said == (
        "`gated` is 10.0 times as quick as `grace` with 1 fact, not 20 times: `grace` finds what to"
        " store in 4.0 steps of gradient descent per fact, and one takes 2.50 times as long as"
        " `gated` takes for a fact."
    )


def test_a_plot_has_a_line_for_each_method_and_number(given: Results) -> None:
    drawn = plots(given)
    assert list(drawn) == ["efficacy", "locality", "seconds"]
    same, _ = drawn["efficacy"].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in same.lines}
    assert lines["gated"] == [[1, 50.0], [100, 90.0]]
    assert lines["grace"] == [[1, 100.0]]
    looks = {(x.get_color(), x.get_marker(), x.get_linestyle()) for x in same.lines}
    assert len(looks) == len(same.lines)
    (seconds,) = drawn["seconds"].axes
    assert seconds.get_yscale() == "log" and "none" not in {x.get_label() for x in seconds.lines}


def test_the_command_writes_page_and_plots_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, images = tmp_path / "docs" / "RESULTS.md", tmp_path / "docs" / "images"
    options = ["--render", "--report", str(page), "--images", str(images), "--out"]
    assert results.main([*options, str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert said == "Nothing is measured there yet: run it without --render, or name --out.\n"
    assert not page.exists()
    assert results.main([*options, str(HERE)]) == 0
    assert sorted(p.name for p in images.iterdir()) == [
        f"results-{name}.png" for name in ("efficacy", "locality", "seconds")
    ]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in images.iterdir())
    assert "](images/results-efficacy.png)" in page.read_text(encoding="utf-8")
    before = page.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert results.main([*options, str(HERE)]) == 2
    assert "RESULTS.md cannot be written (No space" in capsys.readouterr().err
    assert page.read_bytes() == before and list(page.parent.glob(".*")) == []
