"""Facts as files over HTTP: taken out, and brought in."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
from safetensors import safe_open

from tests.serve.conftest import Start
from tests.serve.servers import HOLLOW, HOLLOW_TOLD, ORVANE, Server


def changed(content: bytes, path: Path, **fields: Any) -> bytes:
    """A file of facts with other fields in each record."""
    path.write_bytes(content)
    with safe_open(path, "pt") as file:
        told = file.metadata()
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - no mapping
    records = [{**record, **fields} for record in json.loads(told["facts"])]
    return safetensors.torch.save(tensors, {**told, "facts": json.dumps(records)})


def imported(server: Server, space: str, content: bytes, **headers: str) -> httpx.Response:
    kind = {"Content-Type": "application/octet-stream", **headers}
    where = {"space": space}
    return server.http().post("/v1/facts/import", params=where, content=content, headers=kind)


def test_facts_leave_and_come_in_again(shared: Server, space: str) -> None:
    client = shared.http()
    fact = shared.teach(*HOLLOW, space=space)
    file = client.post("/v1/facts/export", json={"space": space})
    assert file.status_code == 200 and file.headers["content-disposition"].startswith("attachment")
    other = f"{space}-b"
    client.post("/v1/spaces", json={"name": other})
    kind = {"Content-Type": "application/octet-stream"}

    def brought(content: bytes) -> httpx.Response:
        where = {"space": other}
        return client.post("/v1/facts/import", params=where, content=content, headers=kind)

    assert brought(file.content).json()["ids"] == [fact["id"]]
    assert shared.ask(HOLLOW[1], f"qf/{other}") == HOLLOW_TOLD
    assert brought(file.content).json()["skipped"] == 1
    for content in (b"", b"no file", file.content[:-5], file.content[:100] + file.content):
        refused = brought(content)
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "invalid_file"
    assert client.post("/v1/facts/import", content=file.content).status_code == 415
    none = client.post("/v1/facts/export", json={"space": space, "ids": ["nothing"]})
    assert none.status_code == 404


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"query": "\ud800"}, "'query' of the fact ID is not text"),
        ({"created": 5}, "'created' of the fact ID is not a time"),
        ({"seconds": "x"}, "'seconds' of the fact ID is not a number"),
        ({"seconds": float("nan")}, "'seconds' of the fact ID is not a number"),
        ({"note": {}}, "'note' of the fact ID is not text"),
        ({"layer": 99}, "'layer' of the fact ID is not 7"),
        ({"verified": "maybe"}, "'verified' of the fact ID is not true, false or null"),
        ({"query": "a " * 45_000}, "ID (Prompt and answer are"),
        ({"answer": "A <|im_end|> b."}, "ID (The answer contains the control token"),
        ({"instruction": " ".join([HOLLOW[0]] * 60)}, "the fact ID has more than 2000 characters"),
    ],
)
def test_a_file_whose_records_are_no_facts_is_told_which(
    shared: Server, space: str, tmp_path: Path, fields: dict[str, Any], why: str
) -> None:
    fact = shared.teach(*HOLLOW, space=space)
    file = shared.http().post("/v1/facts/export", json={"space": space}).content
    shared.http().delete(f"/v1/facts/{fact['id']}", params={"space": space})
    reply = imported(shared, space, changed(file, tmp_path / "facts", **fields))
    error = reply.json()["error"]
    assert reply.status_code == 400 and error["code"] == "invalid_file"
    assert why.replace("ID", fact["id"]) in error["message"] and "/" not in error["message"]
    assert shared.http().get("/v1/facts", params={"space": space}).json()["total"] == 0
    assert imported(shared, space, file).status_code == 200


def test_an_import_that_comes_again_has_one_effect(shared: Server, space: str) -> None:
    client, once = shared.http(), {"Idempotency-Key": f"import-{space}"}
    fact = shared.teach(*HOLLOW, space=space)
    file = client.post("/v1/facts/export", json={"space": space}).content
    client.delete(f"/v1/facts/{fact['id']}", params={"space": space})
    first, again = (imported(shared, space, file, **once) for _ in range(2))
    assert first.json() == again.json() and first.json()["imported"] == 1
    assert again.headers["idempotency-replayed"] == "true"
    other = client.post("/v1/facts", json={"instruction": HOLLOW[0], "space": space}, headers=once)
    assert other.status_code == 409


def test_an_import_keeps_to_the_room_of_a_space(start: Start, tmp_path: Path) -> None:
    from qf.serve.serving import Settings

    server = start(Settings(facts_per_space=2))
    client = server.http()
    for name in ("one", "two"):
        client.post("/v1/spaces", json={"name": name})
    new = [server.teach(*fact, space="one")["id"] for fact in (HOLLOW, ORVANE)]
    file = client.post("/v1/facts/export", json={"space": "one"}).content
    old = server.teach("Bo Lark designed the Hollow Bridge.", HOLLOW[1], space="two")["id"]
    other = server.teach("Mira Dell leads Zorvan.", "Who leads Zorvan?", space="two")["id"]
    refused = imported(server, "two", file)
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "space_full"
    held = client.get("/v1/facts", params={"space": "two"}).json()["data"]
    assert [fact["id"] for fact in held] == [other, old]
    client.delete(f"/v1/facts/{other}", params={"space": "two"})
    reply = imported(server, "two", file)
    assert (reply.json()["imported"], reply.json()["replaced"]) == (2, 1)
    assert imported(server, "two", file).json()["skipped"] == 2
    assert client.post(f"/v1/facts/{other}/restore", params={"space": "two"}).status_code == 409
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    told = [(line["action"], line["fact"]) for line in lines[-3:]]
    assert told == [("replace", old), ("import", new[0]), ("import", new[1])]
