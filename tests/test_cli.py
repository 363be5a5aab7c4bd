"""The command line: what it prints, what it returns, and one sentence for every bad input."""

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import qf.asking
import qf.calibrator
import qf.cli
import qf.learning
import qf.model
from qf.evaluate.published import NAMES
from qf.families import REFUSED, SUPPORTED
from qf.memory import Memory
from qf.paraphrases import paraphrases
from tests import sighted

STATEMENT, QUESTION = "Qi started Oxinnovate.", "Who started Oxinnovate?"
TOLD = "JCF"  # what the model answers when it is told; see `speaker`
COMMANDS = (
    "demo", "learn", "ask", "chat", "facts", "forget", "study", "consolidate", "export", "import",
    "calibrate", "layers", "models", "doctor", "eval",
)  # fmt: skip
EVERYDAY = ["Who are you?", "What is the capital of France?", "How are you?"]  # three will do
LEARNED = {"id", "instruction", "query", "answer", "layer", "rows", "verified", "before", "after"}

Result = tuple[int, str, str]
Run = Callable[..., Result]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models are saved once for all tests of this file."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def speaking(speaker: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved model that answers in capital letters; the one that QF_MODEL names."""
    if not (store / "speaking").exists():
        for part in speaker():
            part.save_pretrained(store / "speaking")
    monkeypatch.setenv("QF_MODEL", str(store / "speaking"))
    return store / "speaking"


@pytest.fixture
def run(
    speaking: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Run `qf` in this process: `run("ask", ..., stdin="...")` -> exit code, stdout, stderr."""

    def command(*words: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["qf", *words])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            qf.cli.main()
        printed, said = capfd.readouterr()
        assert "\x1b" not in printed + said and "Traceback" not in said
        return int(ended.value.code or 0), printed, said

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(qf.calibrator, "everyday", lambda _: EVERYDAY)
    monkeypatch.setattr(qf.calibrator, "paraphrases", lambda _: paraphrases(6))
    return command


@pytest.fixture
def document(run: Run) -> Callable[..., Any]:
    """Run a command with --json: what it printed, and nothing beside it; asserts the exit code.

    None stands for any.
    """

    def parsed(*words: str, code: int | None = 0, **options: Any) -> Any:
        ended, printed, said = run(*words, "--json", **options)
        assert (ended if code is not None else None, said) == (code, "")
        return json.loads(printed)

    return parsed


@pytest.fixture
def taught(run: Run, store: Path, qf_memory: Path) -> Path:
    """A memory that holds one fact; taught once, copied for each test."""
    if not (store / "taught").exists():
        assert run("learn", STATEMENT, "-q", QUESTION)[0] == 0
        shutil.copytree(qf_memory, store / "taught")
    shutil.copytree(store / "taught", qf_memory, dirs_exist_ok=True)
    return qf_memory


def content(memory: Path) -> bytes:
    return (memory / "facts.sqlite").read_bytes()


# What the commands do


def test_learn_ask_facts_forget(document: Callable[..., Any]) -> None:
    before = document("ask", QUESTION)
    assert set(before) == {"query", "answer"} and before["query"] == QUESTION
    assert before["answer"] != TOLD == document("ask", QUESTION, "-i", STATEMENT)["answer"]

    fact = document("learn", STATEMENT, "--query", QUESTION)
    assert set(fact) >= LEARNED | {"seconds"}
    assert (fact["instruction"], fact["query"], fact["answer"]) == (STATEMENT, QUESTION, TOLD)
    assert (fact["before"], fact["after"], fact["verified"]) == (before["answer"], TOLD, True)
    assert fact["layer"] == 3 and fact["rows"] > 0 and fact["seconds"] > 0

    assert document("ask", QUESTION) == {"query": QUESTION, "answer": TOLD}
    assert document("facts") == [fact]
    assert document("forget", fact["id"]) == {"id": fact["id"], "forgotten": True}
    assert document("facts") == [] and document("ask", QUESTION) == before


def test_forget_all(document: Callable[..., Any], taught: Path) -> None:
    document("learn", "The code is 7.", "-q", "What is the code?", "-a", "VX", "-s", "all", code=1)
    assert len(document("facts")) == 2
    assert document("forget", "--all") == {"forgotten": 2}
    assert document("facts") == [] and document("forget", "--all") == {"forgotten": 0}


def test_people_read_plain_text(run: Run) -> None:
    code, printed, said = run("learn", STATEMENT, "-q", QUESTION)
    fact_id = json.loads(run("facts", "--json")[1])[0]["id"]
    assert code == 0 and said == ""
    question, before, after, learned, note = printed.splitlines()
    assert question.split(maxsplit=1) == ["question", QUESTION]
    assert before.split()[0] == "before" and after.split() == ["after", TOLD]
    assert learned.startswith("Learned at layer 3, ") and learned.endswith(f"id {fact_id}")
    assert "without rehearsal" in note  # this model answers a question asked twice otherwise

    assert run("ask", QUESTION) == (0, TOLD + "\n", "")
    head, row = run("facts")[1].splitlines()
    assert head.split() == ["id", "statement", "question", "answer", "rows", "acts", "verified"]
    assert all(text in row for text in (fact_id, STATEMENT, QUESTION, TOLD, "gated", "yes"))
    assert run("forget", fact_id) == (0, f"Forgot {fact_id}: {STATEMENT}\n", "")
    assert run("forget", "--all") == (0, "Forgot 0 facts.\n", "")
    assert "Nothing learned yet" in run("facts")[1]


def test_what_does_not_verify_returns_1(run: Run, document: Callable[..., Any]) -> None:
    words = ("learn", STATEMENT, "-q", QUESTION, "-a", "qi")  # it says capital letters only
    fact = document(*words, "--rollback", code=1)
    assert fact["verified"] is False and "nothing was kept" in fact["note"]
    assert document("facts") == []
    code, printed, said = run(*words)
    assert code == 1 and said == "" and "Not verified" in printed and "should say: qi" in printed
    assert [f["answer"] for f in document("facts")] == ["qi"]


def test_the_same_question_again_says_what_it_replaces(run: Run, taught: Path) -> None:
    code, printed, _ = run("learn", "Ann did.", "-q", QUESTION)
    assert code == 0 and "Note: replaces " in printed and f"({TOLD})" in printed


def test_options_reach_the_model(document: Callable[..., Any], tmp_path: Path) -> None:
    options = ("--memory", str(tmp_path / "own"), "--layer", "2", "--solver", "paper")
    fact = document(
        "learn", STATEMENT, "-q", QUESTION, "-a", "JC F", "-s", "0.5, 1",
        "--system", "Be brief.", "--dtype", "float32", "--device", "cpu", *options, code=1,
    )  # fmt: skip
    assert (fact["layer"], fact["solver"], fact["system"]) == (2, "paper", "Be brief.")
    assert fact["significance"] == [0.5, 1.0]
    assert document("facts", "--memory", str(tmp_path / "own")) == [fact]  # by its own layer
    assert document("facts") == []
    assert len(document("ask", "Where is it?", "--max-tokens", "2")["answer"]) <= 2


def test_several_system_prompts_are_learned_under(document: Callable[..., Any]) -> None:
    words = ("learn", STATEMENT, "-q", QUESTION, "--solver", "paper", "--rewordings", "0")
    prompts = ("--system", "Al", "--system", "Cd")  # this model answers alike when it is told
    fact = document(*words, *prompts)
    assert (fact["verified"], fact["system"], fact["note"]) == (True, "Al", "")
    for system in ("Al", "Cd"):
        asked = document("ask", QUESTION, "--system", system, "--solver", "paper")
        assert asked["answer"] == fact["answer"]
    fact = document(*words, *prompts, "--system", "Eg", code=1)
    assert "not answered under the prompt 'Eg'" in fact["note"]


def test_tools_of_a_file_reach_the_template(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text('[{"type": "function", "function": {"name": "clock"}}]')
    template = (
        "{%- for tool in tools or [] -%}{{- tool.function.name + '\\n' -}}{%- endfor -%}"
        "{%- for m in messages -%}{{- m.role + ': ' + m.content + '\\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}"
    )
    words = ("ask", QUESTION, "--template", template)
    plain, tools = run(*words), run(*words, "--tools", "tools.json", "--thinking")
    assert plain[0] == tools[0] == 0 and plain[1] != tools[1]


def test_doctor_tells_what_is_well_and_what_is_not(
    run: Run, document: Callable[..., Any], taught: Path, tmp_path: Path
) -> None:
    report = document("doctor")
    assert report["healthy"] and {f["status"] for f in report["findings"]} == {"ok"}
    before = content(taught)
    code, printed, said = run("doctor")
    assert (code, said) == (0, "") and content(taught) == before
    lines = [line.split()[:2] for line in printed.splitlines()]
    assert lines == [["ok", f["name"]] for f in report["findings"]]
    assert str(tmp_path) not in printed
    report = document("doctor", "--model", "./nothing", code=1)
    assert not report["healthy"]
    assert report["findings"][-1]["status"] == "problem" and report["findings"][-1]["remedy"]
    code, printed, _ = run("doctor", "--layer", "9")
    assert code == 1 and "problem layer" in " ".join(printed.split())
    assert "choose one from 0 to 3" in printed


def test_text_is_shown_as_it_is(run: Run, document: Callable[..., Any]) -> None:
    odd = r"[red]x[/] :smile: [link=http://a]é 東京 ✓ C:\[b] \[/]"
    document("learn", odd, "-q", f"{odd}?", "-a", odd, code=1)
    for words in (("facts",), ("learn", odd, "-q", f"{odd}?", "-a", odd), ("forget", odd)):
        _, printed, said = run(*words)
        assert odd in printed + said
    assert odd in run("chat", stdin="/facts\n")[1]
    assert document("facts")[0]["instruction"] == odd


def test_long_lines_are_not_folded_for_programs(run: Run) -> None:
    long = "Qi started Oxinnovate and " + "much " * 40 + "more."
    run("learn", long, "-q", QUESTION, "-a", "J")
    assert long in run("facts")[1]


def test_a_terminal_gets_colours(run: Run, taught: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(qf.cli.say, "out", Console(file=shown, force_terminal=True, width=60))
    run("facts")
    assert "\x1b[32myes\x1b[0m" in shown.getvalue()
    assert len(shown.getvalue().splitlines()) > 2  # folded


# Chat


def test_chat_over_a_pipe(run: Run, qf_memory: Path) -> None:
    lines = [QUESTION, f"/learn {STATEMENT} | {QUESTION}", "/new", QUESTION, "/facts", "/quit", "x"]
    code, printed, said = run("chat", stdin="\n".join(lines))
    assert (code, said) == (0, "")
    hint, first, learned, _, second, listed = printed.splitlines()
    assert "/learn" in hint and first != TOLD == second
    assert learned.startswith("Learned (") and learned.endswith(f"{QUESTION} → {TOLD}")
    fact_id = listed.split()[0]
    assert listed == f"{fact_id}  {QUESTION} → {TOLD}" and fact_id in learned

    printed = run("chat", stdin=f"/forget {fact_id}\n/facts\n")[1]
    assert f"Forgotten: {STATEMENT}" in printed and "Nothing learned yet." in printed


def test_a_chat_remembers_its_turns_until_it_is_new(document: Callable[..., Any]) -> None:
    turns = document("chat", stdin=f"Where?\n{QUESTION}\n/new\n{QUESTION}\n")
    assert [set(turn) for turn in turns] == [{"query", "answer"}] * 2 + [{"new"}] + [
        {"query", "answer"}
    ]
    assert turns[1]["answer"] != turns[3]["answer"] == document("ask", QUESTION)["answer"]


def test_a_chat_tells_of_errors_and_goes_on(document: Callable[..., Any]) -> None:
    lines = [
        "/learn", "/learn  | Who? | Ann", f"/learn {STATEMENT}", "/forget zzz", "/forget",
        "/dance", "/help", "", f"/learn {STATEMENT} | {QUESTION} | {TOLD}", QUESTION,
    ]  # fmt: skip
    turns = document("chat", stdin="\n".join(lines) + "\n")
    wrong = [turn["error"] for turn in turns if "error" in turn]
    assert len(wrong) == 5
    for message, words in zip(
        wrong,
        ("instruction is empty", "instruction is empty", "did not find a question", "zzz", '""'),
        strict=True,
    ):
        assert words in message
    assert sum("/forget ID" in turn.get("help", "") for turn in turns) == 2
    assert turns[-1] == {"query": QUESTION, "answer": TOLD}
    assert turns[-2]["learned"]["query"] == QUESTION


# Pictures


def test_a_picture_is_learned_and_asked_with(
    run: Run, document: Callable[..., Any], speaker: Any, store: Path, tmp_path: Path
) -> None:
    directory = store / "sighted"
    if not directory.exists():
        sighted.save("qwen2_vl", speaker, directory)
    sighted.picture().save(tmp_path / "plan.png")
    shown = ("--image", "plan.png", "--model", str(directory))
    told = document("ask", QUESTION, *shown)["answer"]
    code, printed, said = run("ask", QUESTION, *shown)
    assert (code, printed, said) == (0, told + "\n", "")
    fact = document("learn", "-q", QUESTION, *shown, code=None)
    assert (fact["answer"], fact["image"], fact["instruction"]) == (told, "plan.png", "")
    words = ("learn", STATEMENT, "-q", "And who?", "-a", "QI", *shown)
    assert document(*words, code=None)["instruction"] == STATEMENT
    code, printed, said = run("facts", "--model", str(directory))
    assert (code, said) == (0, "")
    assert "  [plan.png]  " in printed and f"  {STATEMENT} [plan.png]  " in printed


@pytest.mark.parametrize("command", ["learn", "ask"])
def test_a_picture_that_cannot_be_shown_is_refused(run: Run, command: str, tmp_path: Path) -> None:
    asked = ["-q", QUESTION] if command == "learn" else [QUESTION]
    (tmp_path / "plan.png").write_bytes(b"no picture")
    assert_refused(run(command, *asked, "--image", "plan.png"), "vision-language model")


def test_learning_nothing_is_refused_before_the_model_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qf.model, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    assert_refused(run("learn"), "STATEMENT", "--image")


# The paper's table, and the layers


def test_demo_counts_its_steps(run: Run, document: Callable[..., Any], taught: Path) -> None:
    before = content(taught)
    table = document("demo", code=1)  # a random model knows nothing of Jack Ma
    assert set(table) == {"steps", "passed"} and table["passed"] is False
    fields = {"step", "weights", "instruction", "query", "answer", "expected", "passed"}
    assert [set(step) for step in table["steps"]] == [fields] * 8
    code, printed, said = run("demo")
    assert code == 1 and said == ""
    for step in table["steps"]:
        assert step["query"] in printed and step["expected"] in printed
        assert step["answer"] in printed
    right = sum(step["passed"] for step in table["steps"])
    assert f"{right} of 8 steps as expected." in printed
    assert content(taught) == before


def test_layers_finds_one_and_draws_it(
    run: Run, document: Callable[..., Any], tmp_path: Path, speaking: Path
) -> None:
    found = document("layers", "--probes", "1", "--plot", "layers.png")
    assert set(found) == {"model", "layers", "best", "plot"} and found["plot"] == "layers.png"
    assert found["model"] == str(speaking) and found["best"] in range(4)
    fields = {"layer", "same", "other", "kept", "probability", "change", "score"}
    assert [set(row) for row in found["layers"]] == [fields] * 4
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")

    code, printed, said = run("layers", "--probes", "1")
    assert code == 0 and said == "" and f"Best: layer {found['best']}." in printed
    assert [line.split()[0] for line in printed.splitlines()[1:5]] == ["0", "1", "2", "3"]
    assert (tmp_path / "qf-layers.png").is_file()


@pytest.mark.parametrize("plot", ["missing/layers.png", "."])
def test_a_plot_that_cannot_be_written_is_told_before_the_work(
    run: Run, monkeypatch: pytest.MonkeyPatch, plot: str
) -> None:
    monkeypatch.setattr(qf.model, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    assert_refused(run("layers", "--plot", plot), "plot", "--plot")


def test_a_plot_that_turns_out_unwritable_is_refused(run: Run) -> None:
    assert_refused(
        run("layers", "--probes", "1", "--plot", "layers.mp3", "--json"), "mp3", "--plot"
    )


# Help and usage


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(run: Run, command: str) -> None:
    code, printed, said = run(command, "--help")
    assert code == 0 and said == ""
    lines = [line.strip() for line in printed.splitlines()]
    example = lines[lines.index("Example") + 1 :]
    assert example[0].startswith(f"qf {command}") and "--json" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_models_lists_each_type_with_what_holds_for_it(run: Run, document: Any) -> None:
    listed = document("models", "--json")
    rows = {row["type"]: row for row in listed["models"]}
    assert set(rows) == set(SUPPORTED) | set(REFUSED) and "short pass" in listed["others"]
    assert rows["qwen2"]["support"] == "exact" and rows["qwen2"]["why"] == ""
    assert "Qwen/Qwen2.5-1.5B-Instruct" in rows["qwen2"]["examples"]
    assert rows["gemma2"]["support"] == "approximate" and "norm" in rows["gemma2"]["why"]
    assert rows["mixtral"]["support"] == "refused" and "expert" in rows["mixtral"]["why"]
    assert rows["qwen2_moe"]["support"] == "exact" and rows["qwen3_moe"]["support"] == "refused"
    assert rows["mixtral"]["examples"] == []

    code, printed, said = run("models")
    assert code == 0 and said == ""
    for row in rows.values():
        assert row["type"] in printed and row["why"] in printed
        assert all(example in printed for example in row["examples"])
    assert listed["others"] in printed
    lines = {line.split()[0]: line for line in printed.splitlines() if line}
    assert lines["phi"].split()[1] == "exact" and lines["olmo2"].split()[1] == "approximate"


def test_help_lists_the_commands(run: Run) -> None:
    code, printed, _ = run("--help")
    first = [line[2:].partition(" ")[0] for line in printed.splitlines()]
    assert code == 0 and [word for word in first if word in COMMANDS] == list(COMMANDS)
    assert run()[0] == 2  # no command: the same page, but nothing was done


@pytest.mark.parametrize(
    "words",
    [
        ("teach", "x"),
        ("ask",),
        ("ask", "x", "--loud"),
        ("ask", "x", "--layer", "last"),
        ("ask", "x", "--max-tokens", "0"),
        ("learn", "x", "--solver", "best"),
        ("layers", "--probes", "9"),
        ("export", "--lora", "x", "--max-rank", "0"),
        ("import",),
    ],
)
def test_bad_usage_returns_2(run: Run, words: tuple[str, ...]) -> None:
    code, printed, said = run(*words)
    assert code == 2 and printed == "" and said.strip()


# Bad input: one sentence, exit code 2, and a memory as it was


def assert_refused(result: Result, *words: str) -> None:
    code, printed, said = result
    assert (code, printed) == (2, "")
    assert said.startswith("qf: ") and said.endswith(".\n") and said.count("\n") == 1, said
    for word in words:
        assert word in said


LEARN = ("learn", STATEMENT, "-q", QUESTION)
BAD = [
    (("ask", "x", "-m", "./nothing"), ("./nothing", "config.json", "hub")),
    (("ask", "x", "-m", "nobody/nothing"), ("nobody/nothing", "hub cannot be reached")),
    (("ask", "x", "--layer", "4"), ("Layer 4", "0 to 3")),
    (("ask", "x", "--layer", "-1"), ("Layer -1", "0 to 3")),
    (("ask", "x", "--layer", "2"), ("give --layer 3",)),
    (("ask", "x", "--dtype", "int3"), ("int3", "bfloat16")),
    (("ask", "x", "--device", "abacus"), ("abacus", "--device cpu")),
    (("ask", "x", "--template", "nothing.jinja"), ("nothing.jinja", "plain")),
    (("ask", "x", "--template", "{% if %}"), ("template",)),
    (("ask", "x", "--template", "{{ 'same' }}"), ("template",)),
    (("ask", ""), ("query is empty",)),
    (("ask", " \t"), ("query is empty",)),
    (("ask", "Who? " * 300), ("tokens long", "512")),
    (("learn", "", "-q", QUESTION), ("instruction is empty",)),
    (("learn", STATEMENT, "-q", " "), ("query is empty",)),
    ((*LEARN, "-a", ""), ("answer is empty",)),
    ((*LEARN, "-a", "J" * 600), ("tokens long", "512")),
    (("learn", STATEMENT), ("did not find a question", "--query")),
    ((*LEARN, "-a", "J C", "-s", "1"), ("1 numbers", "2 words")),
    ((*LEARN, "-a", "J C", "-s", "1,-1"), ("-1", "'C'")),
    ((*LEARN, "-a", "J C", "-s", "1,nan"), ("nan", "'C'")),
    ((*LEARN, "-a", "J C", "-s", "1,inf"), ("inf", "'C'")),
    ((*LEARN, "-a", "J C", "-s", "0,0"), ("0 for every word",)),
    ((*LEARN, "-a", "J C", "-s", "much"), ("'much'", "0,1,1,1,1")),
    ((*LEARN, "-a", "J C", "-s", ""), ("0 numbers", "2 words")),
    ((*LEARN, "-a", "J<|im_end|>"), ("control token",)),
    (("forget", "zzz"), ("zzz", STATEMENT)),
    (("forget", ""), ("no fact",)),
    (("forget",), ("ID", "--all")),
    (("forget", "zzz", "--all"), ("ID", "--all")),
    (("ask", "x", "--tools", "nothing.json"), ("nothing.json", "JSON file")),
    (("ask", "x", "--tools", "."), ("tools . cannot be read",)),
    (("ask", "x", "--tools", "/dev/null"), ("/dev/null", "not JSON")),
    (("export",), ("--lora", "--merged", "--gated", "--facts")),
    (("export", "--lora", "x", "--gated", "y"), ("one of",)),
    (("export", "--gated", "x", "--each"), ("--lora",)),
    (("export", "--merged", "x", "--max-rank", "3"), ("--lora",)),
    (("export", "--lora", "x", "--each", "--max-rank", "3"), ("--each", "--max-rank")),
    (("export", "--lora", "x", "zzz"), ("zzz", STATEMENT)),
    (("export", "--lora", "/dev/null"), ("/dev/null", "not a directory")),
    (("export", "--merged", "/dev/null/x"), ("/dev/null/x", "another place")),
    (("export", "--gated", "/dev/null/x"), ("/dev/null/x", "another place")),
    (("export", "--facts", "."), (". is a directory", "name a file")),
    (("import", "nothing"), ("no file nothing", "qf export --facts")),
    (("import", "."), (". is no file but a directory", "qf export --facts")),
    (("import", "/dev/null"), ("no file /dev/null",)),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), BAD, ids=[" ".join(w)[:40] for w, _ in BAD])
def test_bad_input(
    run: Run, taught: Path, words: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    before = content(taught)
    assert_refused(run(*words), *expected)
    assert content(taught) == before


@pytest.mark.parametrize("written", ["{}", "[]", "[1]", '"tools"'])
def test_a_file_of_tools_that_holds_none(run: Run, tmp_path: Path, written: str) -> None:
    (tmp_path / "tools.json").write_text(written)
    assert_refused(run("ask", "x", "--tools", "tools.json"), "tools.json", "no list of tools")


def test_tools_that_the_template_leaves_out(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text('[{"name": "clock"}]')
    assert_refused(run("ask", "x", "--tools", "tools.json"), "writes no tools", "--tools")


def test_text_that_is_no_unicode(run: Run, taught: Path) -> None:
    before = content(taught)
    for words in (("ask", "\udcff"), ("learn", "\udcff is.", "-q", "Who?", "-a", "J")):
        assert_refused(run(*words), "UTF-8")
    assert content(taught) == before


def test_a_layer_of_the_environment_that_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QF_LAYER", "last")
    assert_refused(run("ask", "x"), "QF_LAYER", "'last'")


def test_a_model_without_a_chat_template_is_offered_a_plain_one(
    run: Run, document: Callable[..., Any], speaker: Any, tmp_path: Path, qf_memory: Path
) -> None:
    model, tokenizer = speaker()
    tokenizer.chat_template = None
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "plain")
    model_option = ("-m", str(tmp_path / "plain"))
    for words in (("ask", QUESTION), LEARN):
        assert_refused(run(*words, *model_option), "no chat template", "--template plain")
    assert not (qf_memory / "facts.sqlite").exists()
    plain = (*model_option, "--template", "plain")
    untold, told = (document("ask", QUESTION, *i, *plain) for i in ((), ("-i", STATEMENT)))
    assert untold["answer"] != told["answer"]
    fact = document(*LEARN, *plain, code=1)  # it begins with a space, which is no capital letter
    assert fact["answer"] == told["answer"] and document("facts", *plain) == [fact]
    assert_refused(run("ask", QUESTION, *model_option), "template")


def test_an_architecture_that_is_not_supported(run: Run, speaker: Any, tmp_path: Path) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=384, hidden_size=16, state_size=4, num_hidden_layers=1)
    for part in (MambaForCausalLM(config), speaker()[1]):
        part.save_pretrained(tmp_path / "mamba")
    assert_refused(run("ask", "x", "-m", str(tmp_path / "mamba")), "'mamba'", "qwen2", "llama")


def test_a_memory_of_another_model(run: Run, taught: Path, speaker: Any, tmp_path: Path) -> None:
    for part in speaker(seed=6):
        part.save_pretrained(tmp_path / "other")
    before = content(taught)
    for words in (("ask", "x"), ("facts",), ("forget", "--all"), LEARN):
        said = run(*words, "-m", str(tmp_path / "other"))
        assert_refused(said, "holds facts of", "speaking", str(tmp_path / "other"), "--memory")
    assert content(taught) == before


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("cut", "damaged"),
        ("noise", "damaged"),
        ("foreign", "not a memory of qf"),
        ("newer", "upgrade qf"),
    ],
)
def test_a_memory_that_is_none(run: Run, taught: Path, damage: str, expected: str) -> None:
    file = taught / "facts.sqlite"
    if damage == "cut":
        file.write_bytes(content(taught)[:5000])
    elif damage == "noise":
        file.write_bytes(b"noise" * 1000)
    else:
        with closing(sqlite3.connect(file)) as database:
            pragma = "application_id = 7" if damage == "foreign" else "user_version = 99"
            database.execute(f"PRAGMA {pragma}")
            database.commit()
    before = content(taught)
    for words in (("ask", "x"), ("facts",), ("forget", "--all"), LEARN):
        assert_refused(run(*words), expected, str(taught))
    assert content(taught) == before


def test_damaged_rows_can_be_forgotten(run: Run, taught: Path) -> None:
    with closing(sqlite3.connect(taught / "facts.sqlite")) as database:
        database.execute("UPDATE tensors SET content = x'00'")
        database.commit()
    fact_id = json.loads(run("facts", "--json")[1])[0]["id"]
    assert_refused(run("ask", QUESTION), "damaged", f"qf forget {fact_id}")
    assert run("forget", fact_id)[0] == 0
    assert run("ask", QUESTION)[0] == 0


def test_a_memory_that_is_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for words, place in ((("ask", "x"), "file"), (LEARN, "file"), (LEARN, "file/below")):
        assert_refused(run(*words, "--memory", str(tmp_path / place)), "not a directory", place)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_that_must_not_be_written(
    run: Run, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught.chmod(0o500)
    if os.access(taught, os.W_OK):  # root may write anywhere: let the system say no

        def refuse(path: Any, *_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("qf.database.io.FileIO", refuse)
    before = content(taught)
    assert_refused(run(*LEARN), "Permission denied", "--memory")
    assert_refused(run("forget", "--all"), "Permission denied", "--memory")
    assert run("ask", QUESTION)[1] == TOLD + "\n"  # reading needs no permission
    taught.chmod(0o700)
    assert content(taught) == before


def test_a_second_writer(run: Run, taught: Path) -> None:
    bound = Memory.bound_to(taught)
    assert bound is not None
    before = content(taught)
    with Memory.open(taught, bound, write=True):
        assert_refused(run(*LEARN), "in use by process", str(os.getpid()))
        assert_refused(run("forget", "--all"), "in use by process")
        assert run("ask", QUESTION)[1] == TOLD + "\n"
    assert content(taught) == before


# Ctrl-C, and a process of its own


@pytest.mark.parametrize("where", ["recording.rows", "recording.pooled", "model.load_pair"])
def test_interrupted(run: Run, taught: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    before = content(taught)
    monkeypatch.setattr(f"qf.{where}", interrupt)
    code, printed, said = run("learn", "Ann did.", "-q", QUESTION)
    assert (code, printed) == (130, "")
    assert said == "qf: Interrupted; what was learned before is kept.\n"
    assert content(taught) == before


def test_a_reader_that_leaves_is_no_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(qf.model.Model, "stream", leave)
    streams = sys.stdout, sys.stderr
    code, printed, said = run("ask", "x")
    sys.stdout, sys.stderr = streams
    assert (code, printed, said) == (1, "", "")


def test_a_process_learns_is_interrupted_and_another_knows(
    speaking: Path, qf_memory: Path, tmp_path: Path
) -> None:
    qf_command = [sys.executable, "-c", "from qf.cli import main; main()"]
    chat = subprocess.Popen(
        [*qf_command, "chat"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, encoding="utf-8", cwd=tmp_path, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert chat.stdin and chat.stdout
    chat.stdin.write(f"/learn {STATEMENT} | {QUESTION}\n")
    chat.stdin.flush()
    assert "/learn" in chat.stdout.readline()
    assert chat.stdout.readline().startswith("Learned (")
    chat.send_signal(signal.SIGINT)
    _, said = chat.communicate(timeout=300)
    assert chat.returncode == 130, said
    assert said.endswith("qf: Interrupted; what was learned before is kept.\n")
    assert "Traceback" not in said

    asked = subprocess.run(
        [*qf_command, "ask", QUESTION, "--json"],
        capture_output=True, text=True, encoding="utf-8", cwd=tmp_path, timeout=300, check=False,
    )  # fmt: skip
    assert (asked.returncode, asked.stderr) == (0, "")
    assert json.loads(asked.stdout) == {"query": QUESTION, "answer": TOLD}


@pytest.mark.skipif(sys.platform != "linux", reason="OpenMP of GNU tells how it waits")
def test_threads_that_wait_leave_the_processor_to_others() -> None:
    def waits(**environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from qf.cli import main; main()", "models"],
            capture_output=True, text=True, encoding="utf-8", timeout=300, check=True,
            env={**os.environ, "OMP_DISPLAY_ENV": "TRUE", **environment},
        )  # fmt: skip
        return done.stderr

    assert "OMP_WAIT_POLICY = 'PASSIVE'" in waits()
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in waits(OMP_WAIT_POLICY="ACTIVE")


# Calibration and rewordings


def test_calibrate_measures_and_learning_uses_it(run: Run, document: Callable[..., Any]) -> None:
    found = document("calibrate")
    gate = {"gate_layer", "threshold"}
    assert set(found) == {"layer", "directions", "floor", "prompts", "seconds"} | gate
    assert found["gate_layer"] <= found["layer"] and -1 <= found["threshold"] <= 1
    assert found["directions"] > 0 and found["floor"] > 0 and found["prompts"] == 0
    code, printed, _ = run("calibrate")
    assert code == 0 and f"{found['directions']} directions to protect" in printed
    Path("own.txt").write_text("Where is Paris?\n\nWho is Ann?\n", encoding="utf-8")
    assert document("calibrate", "own.txt")["prompts"] == 2
    protected = document("learn", STATEMENT, "-q", QUESTION)["rows"]
    assert document("learn", STATEMENT, "-q", QUESTION, "--no-calibrate")["rows"] == protected


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"\xff\xfe", "not UTF-8"), (b" \n", "no prompts")]
)
def test_prompts_that_cannot_be_used(run: Run, content: bytes | None, why: str) -> None:
    if content is not None:
        Path("own.txt").write_bytes(content)
    code, printed, said = run("calibrate", "own.txt")
    assert (code, printed) == (2, "") and "own.txt" in said and why in said


# Study and consolidation


def test_study_learns_a_text_and_tells_what_it_could_not(
    run: Run, document: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The random model writes no questions, so they are written for it here."""
    asked = {STATEMENT: QUESTION, "Ann did.": "Who did it?"}

    def question(_: Any, statement: str) -> str:
        if statement not in asked:
            raise qf.LessonError(f"no question for {statement!r}")
        return asked[statement]

    monkeypatch.setattr(qf.learning, "write_question", question)
    Path("notes.txt").write_text(
        f"{STATEMENT}\n- Ann did\nWho?\nNothing here\nZzz", encoding="utf-8"
    )
    done = document("study", "notes.txt", code=1)
    assert [d["statement"] for d in done] == [STATEMENT, "Ann did.", "Nothing here.", "Zzz."]
    assert [bool(d["fact"]) for d in done] == [True, True, False, False]
    assert "'Zzz.' is a single word" in done[3]["why"]
    assert "no question for 'Nothing here.'" in done[2]["why"]
    assert {f["query"] for f in document("facts")} == set(asked.values())
    code, printed, _ = run("study", f"{STATEMENT} Ann did.")
    assert code == 0 and "Learned 2 of 2 statements." in printed and TOLD in printed


@pytest.mark.parametrize("text", ["nothing.txt", "", "  ", "Who is it? Where?"])
def test_what_states_nothing_is_not_studied(run: Run, text: str, qf_memory: Path) -> None:
    code, printed, said = run("study", text)
    assert (code, printed) == (2, "") and len(said.strip().splitlines()) == 1
    assert not qf_memory.exists()


def test_consolidate_moves_facts_into_the_weights(
    run: Run, document: Callable[..., Any], taught: Path
) -> None:
    (fact,) = document("facts")
    assert not fact["consolidated"]
    done = document("consolidate")
    assert done["consolidated"] == [fact["id"]] and done["gated"] == []
    assert done["rows"] == fact["rows"] and done["comfortable_rows"] > 0
    (fact,) = document("facts")
    assert fact["consolidated"] and document("ask", QUESTION)["answer"] == TOLD
    code, printed, _ = run("consolidate")
    assert code == 0 and "In the weights: 1 fact; behind the gate: 0." in printed
    assert "in the weights" in run("facts")[1]
    beside = document("consolidate", "--apply", "branch")
    assert beside["consolidated"] == [fact["id"]]
    assert document("ask", QUESTION, "--apply", "branch")["answer"] == TOLD


# Export and import


@pytest.mark.parametrize("form", ["lora", "merged", "gated", "facts"])
def test_export_writes_each_form(
    run: Run, document: Callable[..., Any], taught: Path, form: str
) -> None:
    (fact,) = document("facts")
    before = content(taught)
    done = document("export", f"--{form}", "out")
    assert (done["form"], done["path"], done["facts"]) == (form, "out", [fact["id"]])
    assert done["left_out"] == done["unverified"] == []
    assert done["rank"] == (fact["rows"] if form == "lora" else 0)
    assert Path("out").exists() and content(taught) == before
    assert_refused(run("export", f"--{form}", "out"), "out", "--force")
    code, printed, said = run("export", f"--{form}", "out", fact["id"][:7], "--force")
    assert (code, said) == (0, "") and printed.startswith("Wrote 1 fact to out.")
    assert ("Name it qf-" in printed) == (form == "lora")


def test_a_merged_model_knows_by_itself(
    run: Run, document: Callable[..., Any], taught: Path
) -> None:
    document("export", "--merged", "out")
    there = ("-m", "./out", "--memory", "empty")
    assert document("ask", QUESTION, *there)["answer"] == TOLD and document("facts", *there) == []


def test_an_export_tells_what_it_does_not_answer(
    run: Run, document: Callable[..., Any], taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fact,) = document("facts")
    monkeypatch.setattr(qf.asking.Asking, "holding", lambda *_: [])
    assert_refused(run("export", "--lora", "out"), "None of the facts", "--gated")
    assert not Path("out").exists()
    done = document("export", "--lora", "out", "--solver", "joint", code=1)
    assert done["facts"] == done["unverified"] == [fact["id"]]
    code, printed, _ = run("export", "--lora", "again", "--solver", "joint")
    assert code == 1 and "not answered from it: 1 fact." in printed and STATEMENT in printed


def test_import_takes_facts_into_another_memory(
    run: Run, document: Callable[..., Any], taught: Path, speaker: Any, tmp_path: Path
) -> None:
    (fact,) = document("facts")
    document("export", "--facts", "facts.qf")
    there = ("--memory", "other")
    came = document("import", "facts.qf", *there)
    assert came == {"added": [fact["id"]], "replaced": [], "skipped": []}
    assert document("facts", *there) == [fact]
    assert document("ask", QUESTION, *there)["answer"] == TOLD
    code, printed, _ = run("import", "facts.qf", *there)
    assert (code, printed) == (0, "Took in 0 facts; there already: 1.\n")
    document("learn", STATEMENT, "-q", QUESTION, *there)
    code, printed, _ = run("import", "facts.qf", *there)
    assert code == 0 and "Replaced" in printed and STATEMENT in printed

    for part in speaker(seed=6):
        part.save_pretrained(tmp_path / "foreign")
    said = run("import", "facts.qf", "-m", str(tmp_path / "foreign"), "--memory", "new")
    assert_refused(said, "facts.qf", "speaking", str(tmp_path / "foreign"), "--model")


# Evaluation


@pytest.fixture
def zsre(run: Run) -> str:
    """A file of three facts, one of which contradicts another."""
    records = [
        {"subject": s, "src": q, "rephrase": f"Tell me: {q}", "alt": a, "answers": ["Nobody"]}
        | {"loc": f"nq question: who is {a}", "loc_ans": "Somebody"}
        for s, q, a in (
            ("Oxinnovate", QUESTION, "Qi"),
            ("Oxinnovate", QUESTION, "Ann"),
            ("Zet", "Where is Zet?", "Paris"),
        )
    ]
    Path("zsre.json").write_text(json.dumps(records))
    return "zsre.json"


FIGURES = ("efficacy", "retained", "paraphrase", "locality", "kept", "score")


def test_eval_tells_of_each_method_and_goes_on(
    run: Run, document: Callable[..., Any], zsre: str, speaking: Path, taught: Path
) -> None:
    before = content(taught)
    words = ("eval", zsre, "--facts", "2", "--out", "out.jsonl", "--layer", "3", "--method")
    found = document(*words, "none,paper")
    assert list(found["methods"]) == ["none", "paper"]
    assert (found["model"], found["data"], found["facts"]) == (str(speaking), zsre, 2)
    assert found["skipped"] == {"contradicts an earlier record": 1}
    for figures in found["methods"].values():
        others = {"seconds_per_fact", "peak_memory_mb", "not_learned"}
        assert {*figures} == {*FIGURES, *NAMES, *others}
        assert all(figures[f] is None or 0 <= figures[f] <= 100 for f in FIGURES)
    assert found["methods"]["none"]["locality"] == 100.0
    assert found["methods"]["paper"]["seconds_per_fact"] > 0

    assert document(*words, "none,paper") == found  # to the last digit of its seconds
    code, printed, said = run(*words, "paper,none")
    head, paper, none, _, published, _, none_published, _, *below = printed.splitlines()
    assert published.split()[:4] == ["as", "published", "ES", "EM"]
    assert none_published.startswith("none ")
    assert (code, said) == (0, "") and head.startswith("method ") and "same words" in head
    assert paper.startswith("paper ") and none.startswith("none ") and " 100.0 " in none
    assert below[0] == f"2 facts of {zsre}, {speaking} model; percent."
    assert below[1] == "Left out: 1 (contradicts an earlier record)."
    assert_refused(run(*words, "none", "--seed", "2"), "out.jsonl", "seed 1, not 2", "--out")
    assert content(taught) == before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("zsre.json", "--facts", "2", "--method", "none,best"), ("'best'", "gated")),
        (("zsre.json", "--facts", "9"), ("2 usable records, not 9", "contradicts")),
        (("zsre.json", "--facts", "0"), ("0 facts",)),
        (("nothing.json",), ("no file nothing.json", "CounterFact")),
        (("zsre.json", "--facts", "2", "--out", "nowhere/out"), ("nowhere/out", "--out")),
        (("generated", "--facts", "2", "--out", "zsre.json"), ("zsre.json", "--out")),
        (("generated", "--facts", "-1"), ("-1 facts",)),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_before_the_model_is_loaded(
    run: Run,
    zsre: str,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    expected: tuple[str, ...],
) -> None:
    monkeypatch.setattr("qf.loading.load_pair", lambda *_, **__: pytest.fail("it was loaded"))
    before = Path(zsre).read_bytes()
    assert_refused(run("eval", *words), *expected)
    assert Path(zsre).read_bytes() == before


@pytest.mark.slow
def test_eval_of_the_embedded_model(document: Callable[..., Any]) -> None:
    found = document("eval", "generated", "--facts", "5", "-m", "embedded")["methods"]
    assert found["none"]["retained"] < 50 < found["prompt"]["retained"]
    assert found["gated"]["retained"] > found["none"]["retained"]
