"""The examples in docstrings show what they say."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import qf

MODULES = [m.name for m in pkgutil.walk_packages(qf.__path__, "qf.")]


@pytest.mark.parametrize("name", ["qf", *MODULES])
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_some_modules_have_examples() -> None:
    found = (doctest.testmod(importlib.import_module(name)).attempted for name in MODULES)
    assert sum(found) > 20
