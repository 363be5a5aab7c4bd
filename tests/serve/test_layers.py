"""The layer sweep over HTTP; how it gives way to replies, tests/serve/test_engine.py shows."""

from tests.serve.servers import Server, events


def test_layers_are_measured_once(shared: Server) -> None:
    client = shared.http()
    assert client.get("/v1/layers").json()["data"] == []
    told = events(client.post("/v1/layers"))
    assert [name for name, _ in told] == ["layer"] * 8 + ["done"]
    found = client.get("/v1/layers").json()
    assert found["best"] == told[-1][1]["best"] == found["layer"] and len(found["data"]) == 8
    assert events(client.post("/v1/layers")) == told
