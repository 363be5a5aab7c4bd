"""Keys: what is kept of them, and what a damaged file does."""

import json
from pathlib import Path

import pytest

from qf.errors import QFError
from qf.serve.keys import LOCAL, Caller, Keys


def test_only_the_hash_of_a_key_is_kept(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    key, text = keys.add("ada", ["ada", "team"], ["chat"])
    file = tmp_path / "keys.json"
    assert text not in file.read_text() and text.split("-")[-1] not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    assert Keys(tmp_path).caller(text) == Caller(key.id, "ada", ("ada", "team"), ("chat",))
    assert keys.caller(text + "x") is None and keys.caller("") is None
    assert keys.caller("\ud800") is None
    keys.revoke(key.id)
    assert keys.caller(text) is None and Keys(tmp_path).all() == []


def test_scopes_count_in_the_spaces_of_a_key() -> None:
    ada = Caller("1", "ada", ("ada",), ("chat",))
    assert [ada.may("chat", s) for s in ("ada", "shared", "base", "eve")] == [True] * 3 + [False]
    assert not ada.may("teach", "ada")
    root = Caller("2", "root", (), ("admin",))
    assert root.may("teach", "eve") and LOCAL.may("admin", "any")


def test_what_cannot_be_a_key_is_refused(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    for spaces, scopes in (
        (["../x"], ["chat"]),
        (["base"], ["chat"]),
        ([], ["chat"]),
        (["a"], ["x"]),
    ):
        with pytest.raises(QFError):
            keys.add("a", spaces, scopes)
    with pytest.raises(QFError, match="qf keys list"):
        keys.revoke("nothing")
    assert not (tmp_path / "keys.json").exists()


def test_a_damaged_file_opens_nothing(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    _, text = keys.add("ada", ["ada"], ["chat"])
    fields = json.loads((tmp_path / "keys.json").read_text())
    for content in ("", "{", "[1]", json.dumps([{**fields[0], "spaces": None}])):
        (tmp_path / "keys.json").write_text(content)
        with pytest.raises(QFError, match=r"keys\.json"):
            Keys(tmp_path).caller(text)
