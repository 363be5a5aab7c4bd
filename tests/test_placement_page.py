"""What docs/placement.md shows is run, with a tiny random model in place of the one it names."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qf.cli
from tests.samples import calibrate_on_little

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "placement.md").read_text(encoding="utf-8")
NAMED = "Qwen/Qwen2.5-1.5B-Instruct"
BENCHMARK = "python benchmarks/merged_error.py"


def blocks(language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def saved(speaker: Any, tmp_path: Path) -> Path:
    for part in speaker("llama", hidden_size=64, intermediate_size=128):
        part.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def python(saved: Path) -> list[str]:
    return [source.replace(NAMED, str(saved)) for source in blocks("python")]


def test_the_commands_do_what_the_page_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    calibrate_on_little(monkeypatch)
    monkeypatch.chdir(tmp_path)
    commands = [c for b in blocks() for c in b.splitlines() if c.startswith("qf ")]
    assert len(commands) == 5
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            qf.cli.main()
        said = capsys.readouterr()
        assert ended.value.code == 0, (command, said)
        if " ask " in command:
            assert "The Hollow Bridge was designed by Ada Quist." in said.out, command
        if command == "qf doctor":
            assert "what it learns is merged into it" in said.out


def test_a_map_is_taken_from_python(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], saved: Path
) -> None:
    exec(compile(python(saved)[0], "placement.md", "exec"), {})
    assert capsys.readouterr().out.strip() in ("merged", "branch")


def test_a_quantised_model_learns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], saved: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    calibrate_on_little(monkeypatch)
    exec(compile(python(saved)[2], "placement.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "branch"


@pytest.mark.slow
def test_the_sharded_program_runs(saved: Path, tmp_path: Path) -> None:
    (command,) = [c for b in blocks() for c in b.splitlines() if c.startswith("torchrun ")]
    (tmp_path / "sharded.py").write_text(python(saved)[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    around = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [*torchrun, *shlex.split(command)[1:]],
        capture_output=True, text=True, env=around, cwd=tmp_path, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = [line for line in done.stdout.splitlines() if line.strip()]
    assert first == second


@pytest.mark.slow
def test_the_rounding_is_what_the_page_says() -> None:
    """The magnitudes of its table, by fewer facts: rounding to 8 bits, and to 11."""
    assert BENCHMARK in PAGE
    around = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, *BENCHMARK.split()[1:], "--facts", "2", "--dtype", "bfloat16", "float16"],
        capture_output=True, text=True, env=around, cwd=ROOT, timeout=500, check=True,
    )  # fmt: skip
    found = {
        (dtype, form): float(lost)
        for dtype, form, lost in re.findall(
            r"^(\w+) +(merged|branch) +([\d.e+-]+)", done.stdout, re.MULTILINE
        )
    }
    told = {
        (dtype, form): float(lost)
        for dtype, form, lost in re.findall(
            r"^\| (\w+) \| (\w+) \| ([\d.e-]+) \|", PAGE, re.MULTILINE
        )
    }
    assert told.keys() >= found.keys() and len(found) == 4
    for what, lost in found.items():
        assert told[what] / 5 < lost < told[what] * 5, what
