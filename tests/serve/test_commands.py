"""`qf serve` and `qf keys` at the command line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import qf
from qf.cli import main
from tests.serve.servers import HOLLOW, HOLLOW_TOLD


def run(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["qf", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_keys_are_added_listed_and_revoked(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, qf_memory: Path
) -> None:
    code, text, _ = run(monkeypatch, capsys, "keys", "add", "alice", "--space", "alice")
    assert code == 0 and text.startswith("qf-")
    assert text.strip() not in (qf_memory / "keys.json").read_text()
    code, listed, _ = run(monkeypatch, capsys, "keys", "list", "--json")
    (key,) = json.loads(listed)
    assert key["name"] == "alice" and key["scopes"] == ["chat", "teach"] and "hash" not in key
    code, shown, _ = run(monkeypatch, capsys, "keys", "revoke", key["id"])
    assert code == 0 and shown == f"Revoked: alice ({key['id']}).\n"
    assert run(monkeypatch, capsys, "keys", "list")[:2] == (0, "")


def test_what_cannot_be_served_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for arguments, told in (
        (["serve", "--host", "0.0.0.0"], "qf keys add"),
        (["serve", "--host", "192.0.2.1.x"], "--host"),
        (["keys", "add", "a"], "--space"),
        (["keys", "add", "a", "--space", "../a"], "no name of a space"),
        (["keys", "revoke", "x"], "qf keys list"),
    ):
        code, _, err = run(monkeypatch, capsys, *arguments)
        assert code == 2 and told in " ".join(err.split()), err
        assert "Traceback" not in err


def test_without_its_packages_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("qf.serve.commands.find_spec", lambda name: None)
    code, _, err = run(monkeypatch, capsys, "serve")
    assert code == 2 and "pip install 'qf[serve]'" in " ".join(err.split())


def test_it_serves_what_was_taught_and_ends_when_told_to(qf_memory: Path) -> None:
    with qf.load("embedded") as model:
        model.learn(*HOLLOW, rewordings=0)
    started = "import sys; sys.argv = sys.argv[1:]; from qf.cli import main; main()"
    command = [sys.executable, "-c", started, "qf", "serve", "--port", "0", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            document = ""
            while not document.endswith("}\n"):
                line = process.stdout.readline()  # type: ignore[union-attr]
                assert line, "it ended"
                document += line
            told = json.loads(document)
            assert told["url"].startswith("http://127.0.0.1:")
            assert told["memory"] == str(qf_memory)
            client = openai.OpenAI(base_url=f"{told['url']}/v1", api_key="none")
            turn: Any = {"role": "user", "content": HOLLOW[1]}
            reply = client.chat.completions.create(model="qf/default", messages=[turn])
            assert reply.choices[0].message.content == HOLLOW_TOLD
            assert httpx.get(f"{told['url']}/health").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, -signal.SIGTERM)
        finally:
            process.kill()
