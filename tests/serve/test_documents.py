"""What docs/serve.md shows is run; what lies in deploy/ is checked by what reads it."""

import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from qf.memory import Memory
from qf.model import Model
from qf.serve.keys import Keys
from tests.serve.conftest import Start
from tests.serve.servers import HOLLOW, HOLLOW_TOLD

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_and_python_examples_work(start: Start, tmp_path: Path, capsys: Any) -> None:
    key = Keys(tmp_path).add("alice", ["alice"], ["chat", "teach"])[1]
    server = start()
    (commands,) = blocks("bash")
    environment = {**os.environ, "KEY": key}
    done = subprocess.run(
        ["bash", "-euc", commands.replace(ADDRESS, server.url)],
        env=environment, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.count(HOLLOW_TOLD) >= 2
    openai_example = blocks("python")[0].replace(ADDRESS, server.url)
    exec(compile(openai_example, "serve.md", "exec"), {"KEY": key})
    assert capsys.readouterr().out == HOLLOW_TOLD


def test_a_backup_taken_in_use_is_a_memory(
    start: Start, base: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact = start().teach(*HOLLOW)
    writing = sqlite3.connect(tmp_path / "facts.sqlite")
    writing.execute("BEGIN IMMEDIATE")  # somebody is about to write
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[1], "serve.md", "exec"), {})
    writing.close()
    (tmp_path / "copy").mkdir()
    (tmp_path / "backup.sqlite").rename(tmp_path / "copy" / "facts.sqlite")
    with Memory.open(tmp_path / "copy", base.binding) as memory:
        assert [f.id for f, _ in memory.rows()] == [fact["id"]]


def test_the_compose_file_is_one() -> None:
    document = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    (service,) = document["services"].values()
    assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert service["ports"] == ["127.0.0.1:8000:8000"]  # others reach it through a proxy
    assert set(document["volumes"]) == {"data"}


def test_the_dockerfile_copies_what_there_is() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK",
             "ENTRYPOINT", "CMD"}  # fmt: skip
    assert {line.split()[0] for line in lines} <= known and lines[0].startswith("FROM ")
    for line in lines:
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1])


def test_keys_are_added_as_the_user_of_the_unit() -> None:
    unit = (ROOT / "deploy" / "qf.service").read_text().splitlines()
    (command,) = re.findall(r"sudo systemd-run (.*?)\n```", PAGE, re.DOTALL)
    properties = re.findall(r"-p (\S+)", command)
    assert {p.partition("=")[0] for p in properties} >= {"DynamicUser", "User", "StateDirectory"}
    assert set(properties) <= set(unit)
    assert {f"Environment={e}" for e in re.findall(r"-E (\S+)", command)} <= set(unit)
    started = next(line for line in unit if line.startswith("ExecStart=")).partition("=")[2]
    assert f"{started.removesuffix(' serve')} keys add" in " ".join(command.split())


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_the_unit_is_one(tmp_path: Path) -> None:
    text = (ROOT / "deploy" / "qf.service").read_text()
    unit = tmp_path / "qf.service"
    unit.write_text(text.replace("/opt/qf/.venv/bin/qf serve", shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert "qf.service" not in done.stderr, done.stderr
