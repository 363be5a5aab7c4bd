"""docs/evaluate.md: its commands run, and its tables name every figure that there is."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from qf.cli import main
from qf.evaluate import material
from qf.evaluate.published import NAMES
from tests.samples import calibrate_on_little

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)
RECORD = {
    "prompt": "The mother tongue of {} is",
    "subject": "",
    "target_new": "English",
    "ground_truth": "French",
    "rephrase_prompt": "{} is a native speaker of",
    "locality_prompt": "The mother tongue of Jack Ma is",
    "locality_ground_truth": "French",
}


def counterfact(number: int, name: str) -> dict[str, Any]:
    return {"case_id": number} | {
        k: v.format(name) if "prompt" in k else v or name for k, v in RECORD.items()
    }


@pytest.fixture
def here(speaker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a file of facts, where QF_MODEL names a tiny model."""
    for part in speaker(max_position_embeddings=2048):
        part.save_pretrained(tmp_path / "model")
    monkeypatch.setenv("QF_MODEL", str(tmp_path / "model"))
    monkeypatch.setenv("QF_LAYER", "3")
    monkeypatch.setattr(material, "AROUND", 4)
    calibrate_on_little(monkeypatch)
    records = [counterfact(n, name) for n, name in enumerate(("Qi", "Paris"))]
    (tmp_path / "counterfact.json").write_text(json.dumps(records))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [shlex.split(c) for c in COMMANDS if c.startswith("qf ")]
    assert len(asked) == 3
    for words in asked:
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr().out
        assert ended.value.code == 0, words
        methods = words[words.index("--method") + 1].split(",")
        assert all(re.search(rf"^{m} ", printed, re.MULTILINE) for m in methods)
        assert f"{words[words.index('--facts') + 1]} facts of {words[2]}" in printed
    lines = (here / "counterfact.jsonl").read_text().splitlines()
    assert [json.loads(line)["method"] for line in lines[1:]] == ["none", "paper", "gated"]


def test_the_tables_name_every_figure(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "qf eval counterfact.json --facts 1 --method none --json"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit):
        main()
    figures = json.loads(capsys.readouterr().out)["methods"]["none"]
    named = re.findall(r"^\| `(\w+)` ", PAGE, re.MULTILINE)
    assert sorted(named) == sorted(figures) and {*NAMES} <= {*named}


def test_make_bench_runs_the_comparison_with_what_it_needs() -> None:
    (command,) = (c for c in COMMANDS if c.startswith("make "))
    told = subprocess.run(
        ["make", "--no-print-directory", "-n", "-B", *shlex.split(command)[1:]],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "pip install" in told and "'.[bench]'" in told
    last = shlex.split(told.strip().splitlines()[-1])
    assert last[1] == "benchmarks/results.py" and (ROOT / last[1]).is_file()
    args = results._arguments(last[2:])
    assert args.facts == [1, 10, 100] and args.minutes_each == 10
    assert str(args.out / "results.jsonl") in PAGE and args.report.name in PAGE
    assert results._arguments(["--render"]).render
