"""Facts over HTTP: taught, listed, forgotten, brought back."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.serve.conftest import Start
from tests.serve.servers import HOLLOW, HOLLOW_TOLD, ORVANE, UNKNOWN, Server, events


def test_a_fact_is_taught_asked_forgotten_and_brought_back(shared: Server, space: str) -> None:
    model, client = f"qf/{space}", shared.http()
    where = {"space": space}
    assert shared.ask(HOLLOW[1], model) == UNKNOWN
    body = {"instruction": HOLLOW[0], "space": space}
    reply = client.post("/v1/facts", json=body)
    fact = reply.json()
    assert reply.status_code == 201 and fact["verified"] and fact["space"] == space
    assert (fact["query"], fact["before"], fact["after"]) == (HOLLOW[1], UNKNOWN, HOLLOW_TOLD)
    *said, end = fact["tokens"]
    assert "".join(t["text"] for t in said) == HOLLOW_TOLD and end["end"]
    assert all(t["learned"] and 0 < t["change"] <= 1 for t in fact["tokens"])
    assert shared.ask(HOLLOW[1], model) == HOLLOW_TOLD
    assert client.get(f"/v1/facts/{fact['id']}", params=where).json() == fact

    gone = client.delete(f"/v1/facts/{fact['id']}", params=where).json()
    assert gone["deleted"] and gone["id"] == fact["id"] and gone["undo_seconds"] > 0
    assert shared.ask(HOLLOW[1], model) == UNKNOWN
    assert client.get(f"/v1/facts/{fact['id']}", params=where).status_code == 404
    again = client.post(f"/v1/facts/{fact['id']}/restore", params=where)
    assert again.status_code == 200 and again.json() == fact
    assert shared.ask(HOLLOW[1], model) == HOLLOW_TOLD
    assert client.post(f"/v1/facts/{fact['id']}/restore", params=where).status_code == 404

    client.delete(f"/v1/facts/{fact['id']}", params={**where, "undo": False})
    late = client.post(f"/v1/facts/{fact['id']}/restore", params=where)
    assert late.status_code == 404 and late.json()["error"]["code"] == "fact_not_found"


def test_the_steps_of_a_learn_are_told_as_they_are_done(shared: Server, space: str) -> None:
    body = {"instruction": HOLLOW[0], "space": space, "stream": True}
    steps = events(shared.http().post("/v1/facts", json=body))
    names = [name for name, _ in steps]
    assert names == [
        "queued", "question", "rewordings", "before", "instruct", "update", "learned", "after",
        "fact",
    ]  # fmt: skip
    told = dict(steps)
    assert told["before"]["answer"] == UNKNOWN and told["after"]["answer"] == HOLLOW_TOLD
    assert HOLLOW[0] in told["instruct"]["prompt"] and HOLLOW[0] not in told["update"]["prompt"]
    assert told["learned"]["tokens"] == told["fact"]["tokens"]
    assert told["after"]["verified"] and told["fact"]["verified"]


def test_facts_come_in_pages(shared: Server, space: str) -> None:
    ids = [
        shared.teach(f"{name} leads Orvane {i}.", f"Who leads Orvane {i}?", space=space)["id"]
        for i, name in enumerate(("Ada", "Bo", "Cy"))
    ]
    client, where = shared.http(), {"space": space, "limit": 2}
    page = client.get("/v1/facts", params=where).json()
    assert [f["id"] for f in page["data"]] == ids[:0:-1]
    assert page["has_more"] and page["total"] == 3 and page["last_id"] == ids[1]
    page = client.get("/v1/facts", params={**where, "after": page["last_id"]}).json()
    assert [f["id"] for f in page["data"]] == ids[:1] and not page["has_more"]
    page = client.get("/v1/facts", params={**where, "order": "asc"}).json()
    assert [f["id"] for f in page["data"]] == ids[:2]
    assert client.get("/v1/facts", params={**where, "after": "x"}).status_code == 404
    assert client.get("/v1/facts", params={**where, "limit": 0}).status_code == 400


def test_a_request_that_comes_again_has_one_effect(shared: Server, space: str) -> None:
    client = shared.http()
    body = {"instruction": HOLLOW[0], "query": HOLLOW[1], "rewordings": 0, "space": space}
    replies: list[httpx.Response] = []

    def send() -> None:
        headers = {"Idempotency-Key": f"once-{space}"}
        replies.append(client.post("/v1/facts", json=body, headers=headers))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({r.json()["id"] for r in replies}) == 1
    assert sum(r.headers.get("idempotency-replayed") == "true" for r in replies) == 3
    assert client.get("/v1/facts", params={"space": space}).json()["total"] == 1
    other = {**body, "query": "Who made the Hollow Bridge?"}
    headers = {"Idempotency-Key": f"once-{space}"}
    refused = client.post("/v1/facts", json=other, headers=headers)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "idempotency_conflict"


def test_a_stream_that_comes_again_ends_alike_and_learns_nothing(
    shared: Server, space: str
) -> None:
    client, once = shared.http(), {"Idempotency-Key": f"stream-{space}"}
    body = {"instruction": HOLLOW[0], "query": HOLLOW[1], "rewordings": 0, "space": space}
    first = client.post("/v1/facts", json={**body, "stream": True}, headers=once)
    again = client.post("/v1/facts", json={**body, "stream": True}, headers=once)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert events(again) == events(first)[-1:] and events(again)[0][0] == "fact"
    plain = client.post("/v1/facts", json=body, headers=once)
    assert plain.status_code == 201 and plain.json() == events(first)[-1][1]
    other = {**body, "query": "Who made the Hollow Bridge?", "stream": True}
    refused = client.post("/v1/facts", json=other, headers=once)
    assert refused.status_code == 409
    assert client.get("/v1/facts", params={"space": space}).json()["total"] == 1


def test_a_stream_that_failed_can_be_sent_again(shared: Server, space: str) -> None:
    once = {"Idempotency-Key": f"failed-{space}"}
    body = {"instruction": "A is b.", "query": "What is A?", "answer": "A <|im_end|> b."}
    for _ in range(2):
        body |= {"space": space, "stream": True}
        reply = shared.http().post("/v1/facts", json=body, headers=once)
        assert events(reply)[-1][0] == "error" and "idempotency-replayed" not in reply.headers


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "instruction"),
        ({"instruction": ""}, "instruction"),
        ({"instruction": 3}, "instruction"),
        ({"instruction": [HOLLOW[0]] * 1000}, "instruction"),
        ({"instruction": "a" * 2001}, "instruction"),
        ({"instruction": "A is b.", "query": " "}, "query"),
        ({"instruction": "A is b.", "significance": [-1]}, "significance"),
        ({"instruction": "A is b.", "significance": "all"}, "significance"),
        ({"instruction": "A is b.", "rewordings": 9}, "rewordings"),
        ({"instruction": "A is b.", "space": "../x"}, "space"),
        ({"instruction": "A is b.", "space": "base/"}, "space"),
    ],
)
def test_a_fact_that_is_none_is_told_why(shared: Server, body: dict[str, Any], param: str) -> None:
    reply = shared.http().post("/v1/facts", json=body)
    assert reply.status_code == 400
    assert str(reply.json()["error"]["param"]).startswith(param), reply.text


def test_a_lesson_that_cannot_be_is_told_why(shared: Server, space: str, speechless: None) -> None:
    body = {"instruction": "A is b.", "query": "What is A?", "answer": "A is b.", "space": space}
    reply = shared.http().post("/v1/facts", json={**body, "significance": [1, 1]})
    assert reply.status_code == 400 and "3 words" in reply.json()["error"]["message"]
    control = shared.http().post("/v1/facts", json={**body, "answer": "A <|im_end|> b."})
    assert control.status_code == 400 and "control token" in control.json()["error"]["message"]
    assert control.json()["error"]["param"] == "answer"
    for statement, param in (("is it so?", "instruction"), ("Nothing is here.", "query")):
        asked = shared.http().post("/v1/facts", json={"instruction": statement, "space": space})
        error = asked.json()["error"]
        assert error["code"] == "invalid_lesson" and error["param"] == param
        assert error["message"].endswith("in the field 'query'.") and statement in error["message"]
    assert shared.http().get("/v1/facts", params={"space": space}).json()["total"] == 0


def test_what_does_not_verify_is_told_and_kept_only_without_rollback(
    shared: Server, space: str
) -> None:
    body = {"instruction": "A is b.", "query": "What is A?", "answer": "漢字漢字漢字 zxqj"}
    body |= {"rewordings": 0, "space": space}
    client, where = shared.http(), {"space": space}
    reply = client.post("/v1/facts", json={**body, "rollback": True})
    told = reply.json()
    assert reply.status_code == 200 and told["verified"] is False and told["id"] is None
    assert "rolled back" in told["note"] and told["tokens"] == []
    assert client.get("/v1/facts", params=where).json()["total"] == 0
    refused = {**body, "rollback": True, "stream": True}
    last = events(client.post("/v1/facts", json=refused))[-1]
    assert last[0] == "fact" and (last[1]["id"], last[1]["verified"]) == (None, False)
    once = {"Idempotency-Key": f"refused-{space}"}
    for _ in range(2):
        reply = client.post("/v1/facts", json={**body, "rollback": True}, headers=once)
        assert reply.status_code == 200 and reply.json()["id"] is None
    last = events(client.post("/v1/facts", json={**body, "stream": True}))[-1]
    assert last[0] == "fact" and last[1]["verified"] is False and last[1]["tokens"]
    assert client.get("/v1/facts", params=where).json()["total"] == 1


def test_every_learn_and_forget_has_a_line_that_does_not_tell_it(
    start: Start, tmp_path: Path
) -> None:
    server = start()
    fact = server.teach(*HOLLOW)
    client = server.http()
    client.delete(f"/v1/facts/{fact['id']}", headers={"X-Request-Id": "mine"})
    client.post(f"/v1/facts/{fact['id']}/restore")
    text = (tmp_path / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["action"] for line in lines] == ["learn", "forget", "restore"]
    assert {line["fact"] for line in lines} == {fact["id"]} and lines[1]["request"] == "mine"
    assert "Hollow" not in text


def test_a_full_space_takes_no_more(start: Start) -> None:
    from qf.serve.serving import Settings

    server = start(Settings(facts_per_space=1))
    server.teach(*HOLLOW)
    body = {"instruction": ORVANE[0], "query": ORVANE[1]}
    reply = server.http().post("/v1/facts", json=body)
    assert reply.status_code == 409 and reply.json()["error"]["code"] == "space_full"


def test_a_full_space_takes_what_replaces(start: Start, tmp_path: Path) -> None:
    from qf.serve.serving import Settings

    server = start(Settings(facts_per_space=1))
    old = server.teach("Bo Lark designed the Hollow Bridge.", HOLLOW[1])
    new = server.teach(*HOLLOW)
    (fact,) = server.http().get("/v1/facts").json()["data"]
    assert fact["id"] == new["id"] and server.ask(HOLLOW[1]) == HOLLOW_TOLD
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    told = [(line["action"], line["fact"]) for line in lines]
    assert told == [("learn", old["id"]), ("replace", old["id"]), ("learn", new["id"])]
    assert lines[1]["request"] == lines[2]["request"]


def test_a_memory_that_is_gone_is_told_and_not_made_anew(start: Start, tmp_path: Path) -> None:
    directory, away = tmp_path / "memory", tmp_path / "away"
    server = start(directory=directory)
    server.teach(*HOLLOW, space="shared")
    directory.rename(away)
    turn = {"role": "user", "content": HOLLOW[1]}
    client = server.http()
    for method, path, body in (
        ("POST", "/v1/chat/completions", {"model": "qf/default", "messages": [turn]}),
        ("POST", "/v1/chat/completions", {"model": "qf/other", "messages": [turn]}),
        ("GET", "/v1/facts", None),
        ("GET", "/v1/facts?space=shared", None),
        ("POST", "/v1/facts", {"instruction": HOLLOW[0], "space": "shared"}),
        ("POST", "/v1/facts", {"instruction": HOLLOW[0]}),
        ("POST", "/v1/spaces", {"name": "new"}),
        ("GET", "/v1/spaces", None),
        ("GET", "/v1/models", None),
        ("GET", "/health", None),
    ):
        reply = client.request(method, path, json=body)
        assert reply.status_code == 503, (method, path, reply.text)
        assert reply.json()["error"]["code"] == "memory_unavailable"
        assert str(tmp_path) not in reply.text
    assert not directory.exists()
    assert server.ask("Who started Alibaba?", "qf/base") == "Alibaba was started by Jack Ma."
    away.rename(directory)
    assert server.ask(HOLLOW[1]) == HOLLOW_TOLD and client.get("/health").status_code == 200


def test_an_empty_directory_in_the_place_of_a_memory_is_not_taken_for_it(
    start: Start, tmp_path: Path
) -> None:
    directory = tmp_path / "memory"
    server = start(directory=directory)
    server.teach(*HOLLOW)
    directory.rename(tmp_path / "away")
    directory.mkdir()  # as where a volume is no longer mounted
    body = {"instruction": HOLLOW[0], "query": HOLLOW[1]}
    for reply in (
        server.http().get("/v1/facts"),
        server.http().get("/v1/facts?space=shared"),
        server.http().post("/v1/facts", json=body),
        server.http().get("/health"),
    ):
        assert reply.status_code == 503
    assert not list(directory.iterdir())


def test_facts_that_are_gone_from_one_space_are_told_there(start: Start, tmp_path: Path) -> None:
    server = start()
    server.http().post("/v1/spaces", json={"name": "team"})
    server.teach(*HOLLOW, space="team")
    server.teach(*ORVANE)
    shutil.rmtree(tmp_path / "spaces" / "team")
    gone = server.http().get("/v1/facts?space=team")
    assert gone.status_code == 503 and gone.json()["error"]["code"] == "memory_unavailable"
    with pytest.raises(openai.InternalServerError):
        server.ask(HOLLOW[1], "qf/team")
    assert server.ask(ORVANE[1]) == ORVANE[0]
