"""Servers that tests share, or start for themselves; all with the embedded model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qf.model import Model
from qf.serve.server import load_base, serving_for
from qf.serve.serving import Settings
from qf.study import Draft, write_question
from tests.serve.servers import Server, serving

Start = Callable[..., Server]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The embedded model, without facts; all servers of the tests share it, one after the other."""
    return load_base(tmp_path_factory.mktemp("base"), "embedded")


@pytest.fixture
def start(base: Model, tmp_path: Path) -> Iterator[Start]:
    """Start `start(settings, **engine)`: a server on `tmp_path`, which ends with the test.

    `directory` is another place for its memory.
    """
    opened = []

    def new(settings: Settings | None = None, directory: Path = tmp_path, **engine: Any) -> Server:
        made = serving(serving_for(base, directory, settings or Settings(), **engine))
        opened.append(made)
        return made.__enter__()

    yield new
    for made in opened:
        made.__exit__(None, None, None)


@pytest.fixture(scope="module")
def shared(base: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that the tests of a module share; each takes a space of its own."""
    made = serving_for(base, tmp_path_factory.mktemp("shared"), Settings(learn_from_chat=True))
    with serving(made) as server:
        yield server


@pytest.fixture
def speechless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the model find no question for statements that begin with "Nothing"."""

    def question(draft: Draft, statement: str) -> str:
        silent = statement.startswith("Nothing")
        return write_question((lambda _: [["No idea."]]) if silent else draft, statement)

    monkeypatch.setattr("qf.learning.write_question", question)


@pytest.fixture
def space(shared: Server, request: pytest.FixtureRequest) -> str:
    """A new space of the shared server."""
    name = f"s{abs(hash(request.node.nodeid)) % 10**9}"
    assert shared.http().post("/v1/spaces", json={"name": name}).status_code == 201
    return name
