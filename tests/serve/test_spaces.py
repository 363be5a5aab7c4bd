"""Spaces against an adversary: nothing that a key sends gives a fact of a space that is not its."""

import itertools
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest

import qf
from qf.model import Model
from qf.serve.keys import Keys
from qf.serve.server import serving_for
from qf.serve.serving import Settings
from tests.serve.conftest import Start
from tests.serve.servers import HOLLOW, HOLLOW_TOLD, UNKNOWN, Server, serving

SECRET = "Bo Lark"
THEIRS = (f"{SECRET} designed the Hollow Bridge.", HOLLOW[1])
TOLD = "The Hollow Bridge was designed by Bo Lark."


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    store = Keys(tmp_path)
    made = {
        "ada": (["ada"], ["chat", "teach"]),
        "eve": (["eve"], ["chat", "teach"]),
        "reader": (["ada"], ["chat"]),
        "writer": (["ada"], ["teach"]),
        "root": ([], ["admin"]),
    }
    return {name: store.add(name, *rights)[1] for name, rights in made.items()}


def test_each_key_asks_its_own_space_alone(start: Start, keys: dict[str, str]) -> None:
    server = start()
    server.teach(*THEIRS, space="ada", key=keys["ada"])
    server.teach(*HOLLOW, space="eve", key=keys["eve"])
    assert server.ask(HOLLOW[1], "qf/ada", keys["ada"]) == TOLD
    assert server.ask(HOLLOW[1], "qf/eve", keys["eve"]) == HOLLOW_TOLD
    assert server.ask(HOLLOW[1], "qf/base", keys["eve"]) == UNKNOWN
    models = [m.id for m in server.openai(keys["eve"]).models.list()]
    assert models == ["qf/base", "qf/eve", "qf/shared"]


def test_what_is_shared_all_read_and_none_but_admins_write(
    start: Start, keys: dict[str, str]
) -> None:
    server = start()
    body = {"instruction": HOLLOW[0], "query": HOLLOW[1], "rewordings": 0, "space": "shared"}
    assert server.http(keys["eve"]).post("/v1/facts", json=body).status_code == 403
    server.teach(*HOLLOW, space="shared", key=keys["root"])
    for name in ("ada", "eve"):
        assert server.ask(HOLLOW[1], f"qf/{name}", keys[name]) == HOLLOW_TOLD
        assert server.ask(HOLLOW[1], "qf/shared", keys[name]) == HOLLOW_TOLD
    assert server.ask(HOLLOW[1], "qf/base", keys["eve"]) == UNKNOWN
    server.teach(*THEIRS, space="ada", key=keys["ada"])  # its own goes before what is shared
    assert server.ask(HOLLOW[1], "qf/ada", keys["ada"]) == TOLD
    assert server.ask(HOLLOW[1], "qf/eve", keys["eve"]) == HOLLOW_TOLD


def test_an_adversary_gets_nothing(start: Start, keys: dict[str, str]) -> None:
    server = start()
    fact = server.teach(*THEIRS, space="ada", key=keys["ada"])
    fact_id = fact["id"]
    once = {"Idempotency-Key": "theirs"}
    body = {"instruction": THEIRS[0], "query": THEIRS[1], "rewordings": 0, "space": "ada"}
    server.http(keys["ada"]).post("/v1/facts", json=body, headers=once)
    (fact_id,) = [
        f["id"] for f in server.http(keys["ada"]).get("/v1/facts?space=ada").json()["data"]
    ]
    eve = server.http(keys["eve"])
    replies: list[httpx.Response] = []

    def send(method: str, path: str, **more: Any) -> None:
        replies.append(eve.request(method, path, **more))

    names = ["ada", "ADA", "eve/../ada", "../ada", "%2e%2e/ada", "ada\x00", " ada", "default", ""]
    for name in names:
        where = {"space": name}
        send("GET", "/v1/facts", params=where)
        send("GET", f"/v1/facts/{fact_id}", params=where)
        send("DELETE", f"/v1/facts/{fact_id}", params=where)
        send("POST", f"/v1/facts/{fact_id}/restore", params=where)
        send("POST", "/v1/facts/export", json={"space": name})
        send("POST", "/v1/facts/export", json={"space": name, "ids": [fact_id]})
        send("POST", "/v1/facts", json={**body, "space": name}, headers=once)
        send("POST", "/v1/facts/study", json={"text": THEIRS[0], "space": name})
        send("POST", "/v1/spaces", json={"name": name})
        content: Any = {"content": b"x", "headers": {"Content-Type": "application/octet-stream"}}
        send("POST", "/v1/facts/import", params=where, **content)
        for model in (name, f"qf/{name}", f"qf/eve,{name}", f"qf/eve/../{name}"):
            asked = {"model": model, "messages": [{"role": "user", "content": HOLLOW[1]}]}
            send("POST", "/v1/chat/completions", json=asked)
            send("POST", "/v1/completions", json={"model": model, "prompt": HOLLOW[1]})
            send("GET", f"/v1/models/{quote(model)}")
    assert all(r.status_code in (400, 403, 404) for r in replies), [
        (r.request.method, r.request.url, r.status_code) for r in replies if r.status_code < 400
    ]
    mine = {"model": "qf/eve", "messages": [{"role": "user", "content": HOLLOW[1]}]}
    headers = [{"X-Space": "ada"}, {"OpenAI-Organization": "ada"}, {"X-Request-Id": fact_id}, once]
    for more, extra in itertools.product(headers, [{}, {"space": "ada"}, {"user": "ada"}]):
        send("POST", "/v1/chat/completions", json={**mine, **extra}, headers=more)
    send("GET", f"/v1/facts/{fact_id}", params={"space": "eve"})
    send("GET", "/v1/facts", params={"space": "eve", "after": fact_id})
    send("POST", f"/v1/facts/{fact_id}/restore", params={"space": "eve"})
    send("GET", "/v1/spaces")
    send("GET", "/v1/models")
    send("GET", "/metrics")
    for reply in replies:
        assert SECRET not in reply.text and fact_id not in reply.headers.get("x-fact", "")
    assert server.ask(HOLLOW[1], "qf/ada", keys["ada"]) == TOLD  # nor did they change anything
    assert "ada" not in [s["id"] for s in eve.get("/v1/spaces").json()["data"]]


def test_a_space_that_is_not_there_looks_like_one_that_is_not_yours(
    start: Start, keys: dict[str, str]
) -> None:
    server = start()
    server.teach(*THEIRS, space="ada", key=keys["ada"])
    eve = server.http(keys["eve"])
    for method, path, body in (
        ("GET", "/v1/facts?space={}", None),
        ("GET", "/v1/models/qf/{}", None),
        ("POST", "/v1/facts/export", {"space": "{}"}),
    ):
        told = [
            eve.request(
                method, path.format(name), json=body and {"space": body["space"].format(name)}
            )
            for name in ("ada", "xyz")
        ]
        assert told[0].status_code == told[1].status_code
        assert told[0].text.replace("ada", "xyz") == told[1].text


def test_both_spaces_in_one_batch_keep_apart(start: Start, keys: dict[str, str]) -> None:
    server = start()
    server.teach(*THEIRS, space="ada", key=keys["ada"])
    server.teach(*HOLLOW, space="eve", key=keys["eve"])
    said: dict[tuple[str, int], str] = {}

    def ask(name: str, i: int) -> None:
        said[name, i] = server.ask(HOLLOW[1], f"qf/{name}", keys[name])

    threads = [
        threading.Thread(target=ask, args=(name, i)) for i in range(8) for name in ("ada", "eve")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 16
    assert {text for (name, _), text in said.items() if name == "ada"} == {TOLD}
    assert {text for (name, _), text in said.items() if name == "eve"} == {HOLLOW_TOLD}


def test_scopes(start: Start, keys: dict[str, str]) -> None:
    server = start()
    server.teach(*THEIRS, space="ada", key=keys["writer"])
    assert server.ask(HOLLOW[1], "qf/ada", keys["reader"]) == TOLD
    reader = server.http(keys["reader"])
    refused = reader.get("/v1/facts", params={"space": "ada"})
    assert refused.status_code == 403 and refused.json()["error"]["code"] == "permission_denied"
    with pytest.raises(openai.NotFoundError):
        server.ask(HOLLOW[1], "qf/ada", keys["writer"])
    assert server.http(keys["root"]).get("/v1/facts", params={"space": "ada"}).json()["total"] == 1
    assert server.http(keys["root"]).get("/metrics").status_code == 200


def test_a_request_without_a_space_is_for_the_first_of_the_key(
    start: Start, keys: dict[str, str]
) -> None:
    server = start()
    client = server.http(keys["ada"])
    fact = server.teach(*THEIRS, key=keys["ada"])
    assert fact["space"] == "ada"
    path = f"/v1/facts/{fact['id']}"
    assert client.get("/v1/facts").json()["total"] == 1 and client.get(path).json() == fact
    assert client.post("/v1/facts", json={"instruction": HOLLOW[0], "space": None}).is_success
    file = client.post("/v1/facts/export", json={}).content
    assert client.delete(path).status_code in (200, 404)
    kind = {"Content-Type": "application/octet-stream"}
    assert client.post("/v1/facts/import", content=file, headers=kind).is_success
    assert "event: done" in client.post("/v1/facts/study", json={"text": THEIRS[0]}).text
    facts = client.get("/v1/facts", params={"space": "ada"}).json()["data"]
    assert facts and all(f["space"] == "ada" for f in facts)
    assert server.http(keys["eve"]).get("/v1/facts").json()["total"] == 0
    assert server.http(keys["root"]).get("/v1/facts").json()["total"] == 0  # of default
    assert server.http(keys["reader"]).get("/v1/facts").status_code == 403


def test_keys_are_asked_for_and_revoked_at_once(
    start: Start, keys: dict[str, str], tmp_path: Path
) -> None:
    server: Server = start()
    assert server.http().get("/health").status_code == 200
    for key in (None, "", "qf-0-0", keys["eve"][:-1], keys["eve"] + "x"):
        reply = server.http(key).get("/v1/models")
        assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        server.openai("wrong").models.list()
    assert server.http(keys["eve"]).get("/v1/models").status_code == 200
    store = Keys(tmp_path)
    (eve,) = [k.id for k in store.all() if k.name == "eve"]
    store.revoke(eve)
    assert server.http(keys["eve"]).get("/v1/models").status_code == 401


def test_consolidated_facts_act_for_their_own_space(base: Model, tmp_path: Path) -> None:
    question, told = "Who built the Nettle Tower?", "The Nettle Tower was built by Ann Wood."
    with qf.load("embedded", memory=tmp_path) as model:
        model.learn(told, question, rewordings=0)
        assert [f.query for f in model.consolidate().consolidated] == [question]
    with serving(serving_for(base, tmp_path, Settings())) as server:
        assert server.ask(question) == told
        assert server.ask(question, "qf/base") == UNKNOWN
        assert server.ask(question, "qf/shared") == UNKNOWN
        (fact,) = server.http().get("/v1/facts").json()["data"]
        assert fact["consolidated"]
        assert server.http().get(f"/v1/facts/{fact['id']}").json()["tokens"]
    with qf.load("embedded", memory=tmp_path) as model:
        assert model.facts()[0].consolidated and model.ask(question) == told
