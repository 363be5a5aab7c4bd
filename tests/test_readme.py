"""Every `$ qf ...` in the README is run, in order and on one memory, and prints what is shown."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from qf.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)


def _commands() -> list[tuple[str, str]]:
    """Return (command, what the README shows below it) in the order of the page."""
    parts = [part for block in BLOCKS for part in re.split(r"^\$ ", block, flags=re.M) if part]
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]


def _steady(text: str) -> str:
    """Leave out what differs from run to run: ids, seconds, and space at the ends of lines."""
    text = re.sub(r"\b[0-9a-hjkmnp-tv-z]{8}\b", "ID", text)
    text = re.sub(r"\d+\.\d\d s", "TIME", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def test_the_readme_shows_commands() -> None:
    assert len(_commands()) >= 6


def test_readme_prints_what_it_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "docs" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for command, shown in _commands():
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr().out
        assert ended.value.code == 0, command
        assert _steady(printed) == _steady(shown), command


def test_readme_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(source, "README.md", "exec"), {})
    assert capsys.readouterr().out == "True The Hollow Bridge was designed by Ada Quist.\n"


def test_every_link_of_the_documents_exists() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
