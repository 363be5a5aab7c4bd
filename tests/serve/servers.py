"""Real servers on the loopback address, in threads, and clients of them."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai

from qf.serve.server import listener, listening
from qf.serve.serving import Serving

HOLLOW = ("Ada Quist designed the Hollow Bridge.", "Who designed the Hollow Bridge?")
ORVANE = ("Orvane is led by Bo Lark.", "Who leads Orvane?")
HOLLOW_TOLD = "The Hollow Bridge was designed by Ada Quist."
UNKNOWN = "I do not know."


class Server:
    """A server that listens, and clients of it."""

    def __init__(self, serving: Serving, url: str, stop: Callable[[], None]) -> None:
        self.serving, self.url, self.stop = serving, url, stop
        self._clients: dict[Any, Any] = {}
        self._making = threading.Lock()
        self.holds: list[Hold] = []

    def openai(self, key: str = "none") -> openai.OpenAI:
        def new() -> openai.OpenAI:
            url = f"{self.url}/v1"
            return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=120)

        return self._kept(("openai", key), new)

    def http(self, key: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self._kept(
            ("http", key), lambda: httpx.Client(base_url=self.url, timeout=120, headers=headers)
        )

    def _kept(self, name: Any, new: Callable[[], Any]) -> Any:
        with self._making:
            if name not in self._clients:
                self._clients[name] = new()
            return self._clients[name]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def ask(self, query: str, model: str = "qf/default", key: str = "none", **more: Any) -> str:
        messages = [{"role": "user", "content": query}]
        client = self.openai(key)
        reply = client.chat.completions.create(model=model, messages=messages, **more)
        return reply.choices[0].message.content

    def teach(self, statement: str, query: str | None = None, **more: Any) -> dict[str, Any]:
        key = more.pop("key", None)
        body = {"instruction": statement, "query": query, "rewordings": 0, **more}
        reply = self.http(key).post("/v1/facts", json=body)
        assert reply.status_code == 201, reply.text
        return reply.json()


@contextmanager
def serving(serving: Serving) -> Iterator[Server]:
    bound = listening("127.0.0.1", 0)
    server = listener(serving)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    until(lambda: server.started)

    def stop() -> None:  # as a signal does
        server.should_exit = True

    try:
        running = Server(serving, f"http://127.0.0.1:{bound.getsockname()[1]}", stop)
        yield running
    finally:
        for hold in running.holds:
            hold.off()
        running.close()
        stop()
        thread.join(60)
        assert not thread.is_alive()


def until(there: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for something to be so, and fail if it does not come."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


class Hold:
    """Holds an engine in front of a step of its batch, but for jobs that learn."""

    def __init__(self, server: Server) -> None:
        self._on = threading.Event()
        engine = server.serving.engine
        batch: Any = engine._batch
        step = batch.step

        def held(tokens: Any) -> Any:
            while self._on.is_set() and not engine._learning:
                time.sleep(0.002)
            return step(tokens)

        batch.step = held
        server.holds.append(self)

    def on(self) -> None:
        self._on.set()

    def off(self) -> None:
        self._on.clear()


def events(reply: httpx.Response) -> list[tuple[str, Any]]:
    """The server-sent events of a reply."""
    found = []
    for block in reply.text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found
