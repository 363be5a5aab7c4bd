"""What is refused before anything is read, and what responses carry."""

import asyncio
import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from qf.errors import QFError
from qf.serve.errors import APIError
from qf.serve.guard import Guard, Rates
from qf.serve.keys import Keys
from qf.serve.server import check_address
from qf.serve.serving import Settings
from tests.serve.conftest import Start
from tests.serve.servers import Server


def status(server: Server, headers: dict[str, str], method: str = "POST") -> int:
    """The status of a request with exactly these headers."""
    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request(method, "/v1/spaces", b'{"name": "made"}', {"Host": host, **headers})
    found = connection.getresponse().status
    connection.close()
    return found


def test_pages_of_other_origins_may_do_nothing(shared: Server) -> None:
    json = {"Content-Type": "application/json"}
    assert status(shared, json) in (200, 201)
    assert status(shared, {**json, "Origin": shared.url}) == 200
    assert status(shared, {**json, "Origin": "https://evil.example"}) == 403
    assert status(shared, {"Content-Type": "text/plain", "Origin": "null"}) == 403
    assert status(shared, {"Host": "evil.example"}, "GET") == 403  # a name made to point here
    preflight = shared.http().options("/v1/facts", headers={"Origin": "https://evil.example"})
    assert preflight.status_code == 403
    assert not [h for h in preflight.headers if h.startswith("access-control")]


def test_responses_carry_a_policy_and_an_id(shared: Server) -> None:
    for path in ("/", "/health", "/nothing", "/v1/models"):
        headers = shared.http().get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-request-id"]
    mine = shared.http().get("/health", headers={"X-Request-Id": "mine-1"})
    assert mine.headers["x-request-id"] == "mine-1"
    other = shared.http().get("/health", headers={"X-Request-Id": "a b" * 99})
    assert other.headers["x-request-id"].startswith("req-")


def test_a_public_address_needs_keys(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    for host in ("127.0.0.1", "localhost", "::1"):
        assert not check_address(host, keys)
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(QFError, match="qf keys add"):
            check_address(host, keys)
    keys.add("a", ["a"], ["chat"])
    assert check_address("0.0.0.0", keys) and not check_address("127.0.0.1", keys)


def test_a_server_that_had_keys_lets_nobody_in_without_one(start: Start, tmp_path: Path) -> None:
    server, store = start(), Keys(tmp_path)
    assert server.http().get("/v1/models").status_code == 200
    key, text = store.add("alice", ["alice"], ["chat", "teach"])
    assert server.http(text).get("/v1/models").status_code == 200
    store.revoke(key.id)
    for path in ("/v1/models", "/v1/facts", "/metrics"):
        reply = server.http().get(path)
        assert reply.status_code == 401 and reply.json()["error"]["code"] == "invalid_api_key"
    assert server.http(text).get("/v1/models").status_code == 401
    (tmp_path / "keys.json").unlink()
    for client in (server.http(), server.http(text)):
        reply = client.get("/v1/models")
        assert reply.status_code == 503 and reply.json()["error"]["code"] == "keys_unavailable"
        assert str(tmp_path) not in reply.text
    again = Keys(tmp_path).add("alice", ["alice"], ["chat"])[1]
    assert server.http(again).get("/v1/models").status_code == 200


def test_a_server_whose_directory_is_gone_lets_nobody_in(start: Start, tmp_path: Path) -> None:
    directory = tmp_path / "memory"
    key = Keys(directory).add("alice", ["alice"], ["chat"])[1]
    server = start(directory=directory)
    directory.rename(tmp_path / "away")  # before anybody asked
    for client in (server.http(), server.http(key)):
        for path in ("/v1/models", "/health"):
            assert client.get(path).status_code == 503
    (tmp_path / "away").rename(directory)
    assert server.http(key).get("/v1/models").status_code == 200
    assert server.http().get("/v1/models").status_code == 401


def test_a_restart_after_the_last_key_was_revoked_lets_nobody_in(
    start: Start, tmp_path: Path
) -> None:
    store = Keys(tmp_path)
    store.revoke(store.add("alice", ["alice"], ["chat"])[0].id)
    assert start().http().get("/v1/models").status_code == 401


def test_a_public_server_does_not_start_when_its_keys_are_gone(start: Start) -> None:
    with pytest.raises(QFError, match="qf keys add"):  # they went while the model was loaded
        start(Settings(public=True))


def answered(server: Server, client: Any) -> int:
    """The status of a request for the models that comes from an address."""
    told: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told.append(200)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            told.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "path": "/v1/models", "headers": headers, "client": client}
    asyncio.run(Guard(app, server.serving)(scope, receive, send))
    return told[0]


def test_a_server_without_keys_answers_its_own_machine_alone(shared: Server) -> None:
    for here in ("127.0.0.1", "127.1.2.3", "::1"):
        assert answered(shared, (here, 1)) == 200
    for elsewhere in (("192.0.2.7", 1), ("2001:db8::1", 1), ("localhost", 1), ("", 0), None):
        assert answered(shared, elsewhere) == 403
    # As uvicorn tells it, where a proxy on this machine says for whom it asks.
    assert status(shared, {"X-Forwarded-For": "192.0.2.7"}) == 403


def test_a_body_that_does_not_arrive_is_not_waited_for(start: Start) -> None:
    server = start(Settings(body_seconds=0.2))
    host, port = server.url.removeprefix("http://").split(":")
    for path in ("/v1/chat/completions", "/v1/facts"):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 99\r\n"
                'Content-Type: application/json\r\n\r\n{"'.encode()
            )
            reply = http.client.HTTPResponse(connection)
            reply.begin()
            document = json.loads(reply.read())
            assert reply.status == 408 and document["error"]["code"] == "request_timeout"
            assert connection.recv(1) == b""  # it is closed
    # A whole body is as before, and so is a reply that takes longer than a body may.
    turns = [{"role": "user", "content": "Who started Alibaba?"}]
    body = {"model": "qf/base", "messages": turns, "max_tokens": 300, "ignore_eos": True}
    assert server.http().post("/v1/chat/completions", json=body).status_code == 200


def test_those_without_keys_and_those_refused_are_counted(start: Start, tmp_path: Path) -> None:
    server = start(Settings(rate=3))
    local = [server.http().get("/v1/models").status_code for _ in range(4)]
    assert local == [200, 200, 200, 429]
    assert server.http().get("/health").status_code == 200
    key = Keys(tmp_path).add("a", ["a"], ["chat"])[1]

    def told(text: str | None, client: str) -> int:
        headers = {"X-Forwarded-For": client}
        return server.http(text).get("/v1/models", headers=headers).status_code

    refused = [told(text, "192.0.2.7") for text in ("wrong", None, "other", "wrong", None)]
    assert refused == [401, 401, 401, 429, 429]
    assert told("wrong", "192.0.2.8") == 401
    assert told(key, "192.0.2.7") == 200  # a right key is counted by itself


def test_a_key_that_comes_too_often_is_told_when_to_come_again(
    start: Start, tmp_path: Path
) -> None:
    key = Keys(tmp_path).add("a", ["a"], ["chat"])[1]
    client = start(Settings(rate=3)).http(key)
    replies = [client.get("/v1/models") for _ in range(4)]
    assert [r.status_code for r in replies] == [200, 200, 200, 429]
    assert replies[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 21


def test_a_rate_fills_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("qf.serve.guard.time.monotonic", lambda: now[0])
    rates = Rates(60)
    for _ in range(60):
        rates.check("a")
    with pytest.raises(APIError):
        rates.check("a")
    rates.check("b")
    now[0] += 1
    rates.check("a")
    with pytest.raises(APIError):
        rates.check("a")
    now[0] += 61
    rates.check("b")
    assert list(rates._left) == ["b"]  # who has not come for a minute is not kept
