"""Many requests at once: equal answers, one version of memory for each, bounds, leaving."""

import asyncio
import json
import socket
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import openai
import pytest

from qf.method import layers
from qf.serve import layers as routes
from qf.serve.engine import BESIDE
from qf.serve.serving import Settings
from tests.serve.conftest import Start
from tests.serve.servers import HOLLOW, HOLLOW_TOLD, UNKNOWN, Hold, Server, until

QUESTIONS = [
    HOLLOW[1],
    "Who started Alibaba?",
    "What is the capital of France?",
    "Can you tell me who designed the Hollow Bridge?",
    "Hello!",
    "Who leads Orvane, which I have never heard of before today, if I may ask?",
]


def chat(server: Server, query: str, model: str = "qf/default", **more: Any) -> Any:
    messages = [{"role": "user", "content": query}]
    return server.openai().chat.completions.create(model=model, messages=messages, **more)


def said(chunks: Any) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def stepping(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done from now on, in order; steps of the batch are "step"."""
    order: list[str] = []
    take = server.serving.engine._take

    def stepped(*args: Any) -> None:
        order.append("step")
        take(*args)

    monkeypatch.setattr(server.serving.engine, "_take", stepped)
    return order


def sent(server: Server, path: str, body: dict[str, Any], more: str = "") -> socket.socket:
    """A connection on which a request was sent, and nothing read."""
    host, port = server.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{more}"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    client = socket.create_connection((host, int(port)))
    client.sendall(head.encode() + content)
    return client


def test_sixteen_at_once_are_answered_as_each_alone(start: Start) -> None:
    server = start()
    for space, who in (("default", "Ada Quist"), ("other", "Bo Lark")):
        server.http().post("/v1/spaces", json={"name": space})
        server.teach(f"{who} designed the Hollow Bridge.", HOLLOW[1], space=space)
    asked = [
        (question, model)
        for model in ("qf/default", "qf/other", "qf/base")
        for question in QUESTIONS
    ][:16]
    alone = [server.ask(q, m, max_tokens=24) for q, m in asked]
    assert alone[0] == HOLLOW_TOLD and alone[6] == "The Hollow Bridge was designed by Bo Lark."
    assert alone[12] == UNKNOWN

    async def together() -> list[str]:
        url = f"{server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def one(query: str, model: str) -> str:
                messages: Any = [{"role": "user", "content": query}]
                stream = await client.chat.completions.create(
                    model=model, messages=messages, stream=True, max_tokens=24
                )
                return said([chunk async for chunk in stream])

            return await asyncio.gather(*(one(q, m) for q, m in asked))

    assert asyncio.run(together()) == alone


def test_a_reply_keeps_the_facts_that_it_began_with(start: Start) -> None:
    server = start()
    hold = Hold(server)
    known = server.teach(*HOLLOW)
    other = ("Cy Munt designed the Hollow Bridge.", HOLLOW[1])

    hold.on()
    stream = chat(server, HOLLOW[1], stream=True)
    first = [next(stream), next(stream)]
    server.teach(*other)  # acknowledged while the stream is held
    hold.off()
    assert said([*first, *stream]) == HOLLOW_TOLD
    assert server.ask(HOLLOW[1]) == "The Hollow Bridge was designed by Cy Munt."
    facts = server.http().get("/v1/facts").json()["data"]
    assert [f["note"] for f in facts] == [f"replaces {known['id']} ({HOLLOW_TOLD})"]

    hold.on()
    stream = chat(server, HOLLOW[1], stream=True)
    first = [next(stream), next(stream)]
    assert server.http().delete(f"/v1/facts/{facts[0]['id']}").status_code == 200
    hold.off()
    assert said([*first, *stream]) == "The Hollow Bridge was designed by Cy Munt."
    assert server.ask(HOLLOW[1]) == UNKNOWN


def test_between_two_steps_one_fact_is_learned_at_most(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    order: list[str] = []
    write, take = server.serving.audit.write, server.serving.engine._take

    def learned(*args: str) -> None:
        order.append("learn")
        write(*args)

    def stepped(*args: Any) -> None:
        order.append("step")
        take(*args)

    monkeypatch.setattr(server.serving.audit, "write", learned)
    monkeypatch.setattr(server.serving.engine, "_take", stepped)
    hold = Hold(server)
    hold.on()
    stream = chat(server, "Who started Alibaba?", stream=True)
    next(stream)
    facts = [(f"{n} leads Orvane {i}.", f"Who leads Orvane {i}?") for i, n in enumerate("ABC")]
    threads = [threading.Thread(target=server.teach, args=fact) for fact in facts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hold.off()
    assert said(stream) == "Alibaba was started by Jack Ma."
    places = [i for i, what in enumerate(order) if what == "learn"]
    assert len(places) == 3
    assert all("step" in order[a:b] for a, b in pairwise(places))


def test_a_sweep_of_the_layers_gives_way_to_a_reply_after_every_probe(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    plain = server.ask("Who started Alibaba?", max_tokens=40, extra_body={"ignore_eos": True})
    order = stepping(server, monkeypatch)
    answered = layers._answered

    def read(*args: Any) -> Any:
        order.append("probe")
        return answered(*args)

    monkeypatch.setattr(layers, "_answered", read)
    monkeypatch.setattr(routes, "PROBES", routes.PROBES[:2])
    monkeypatch.setitem(server.serving.about, "layers", 3)
    hold = Hold(server)
    hold.on()
    more = {"max_tokens": 40, "extra_body": {"ignore_eos": True}}
    stream = chat(server, "Who started Alibaba?", stream=True, **more)
    first = next(stream)
    told = server.http().post("/v1/layers").text  # each of its jobs lets one step pass
    hold.off()
    assert said([first, *stream]) == plain
    assert told.count("event: layer") == 3 and "event: done" in told
    places = [i for i, what in enumerate(order) if what == "probe"]
    assert len(places) == 3 * 3  # two probes a layer, and what is known
    assert all("step" in order[a:b] for a, b in pairwise(places))


def test_two_clients_measure_the_layers_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    monkeypatch.setattr(routes, "PROBES", routes.PROBES[:1])
    monkeypatch.setitem(server.serving.about, "layers", 3)
    told: list[str] = []
    both = [
        threading.Thread(target=lambda: told.append(server.http().post("/v1/layers").text))
        for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert told[0] == told[1]
    assert [s["layer"] for s in server.http().get("/v1/layers").json()["data"]] == [0, 1, 2]


def test_prompts_are_read_a_few_at_a_time_beside_a_reply(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    order = stepping(server, monkeypatch)
    batch: Any = server.serving.engine._batch
    join = batch.join

    def joined(asked: Any, memories: Any) -> Any:
        order.append(str(len(asked) * max(len(a.ids) for a in asked)))
        return join(asked, memories)

    monkeypatch.setattr(batch, "join", joined)
    prompts = ["Alibaba was started by Jack Ma. " * 25] * 12
    many = {"model": "qf/base", "prompt": prompts, "max_tokens": 2}

    def read() -> list[int]:
        return [int(what) for what in order if what != "step"]

    server.openai().completions.create(**many)
    alone, total = read(), sum(read())
    assert total > 2 * BESIDE and alone[0] > BESIDE  # nobody waits for it
    hold = Hold(server)
    hold.on()
    stream = chat(server, "Who started Alibaba?", stream=True)
    next(stream)
    order.clear()
    waiting = threading.Thread(target=server.openai().completions.create, kwargs=many)
    waiting.start()
    until(lambda: server.serving.engine.load()["waiting"])
    hold.off()
    waiting.join()
    assert said(stream) == "Alibaba was started by Jack Ma."
    assert sum(read()) == total and max(read()) <= BESIDE
    places = [i for i, what in enumerate(order) if what != "step"]
    # A pass over prompts takes their first tokens; then all replies have a step.
    assert all(order[a + 1 : b].count("step") >= 2 for a, b in pairwise(places))


def test_beyond_a_bound_requests_are_told_to_come_again(start: Start) -> None:
    server = start(rows=1, waiting=2)
    hold = Hold(server)
    hold.on()
    first = chat(server, "Who started Alibaba?", stream=True)
    next(first)  # it has the only place
    replies: list[Any] = []
    threads = [
        threading.Thread(target=lambda: replies.append(chat(server, "Who started Alibaba?")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    until(lambda: server.serving.engine.load()["waiting"] == 2)
    with pytest.raises(openai.RateLimitError) as refused:
        chat(server, "Who started Alibaba?")
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert refused.value.code == "queue_full"
    hold.off()
    for thread in threads:
        thread.join()
    assert [r.choices[0].message.content for r in replies] == [
        "Alibaba was started by Jack Ma."
    ] * 2
    assert "Alibaba" in said(first)


def test_more_replies_than_can_ever_wait_are_refused_for_good(start: Start) -> None:
    server = start(waiting=2)
    with pytest.raises(openai.BadRequestError) as refused:
        server.openai().completions.create(model="qf/base", prompt=["a", "b"], n=2)
    assert refused.value.code == "too_many_replies"
    assert "4 replies" in str(refused.value) and "takes 2" in str(refused.value)
    assert server.openai().completions.create(model="qf/base", prompt=["a"], n=2).choices[1]


def test_beyond_a_bound_facts_are_told_to_come_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    monkeypatch.setattr("qf.serve.engine.JOBS", 0)
    reply = server.http().post("/v1/facts", json={"instruction": HOLLOW[0]})
    assert reply.status_code == 429 and int(reply.headers["retry-after"]) >= 1
    assert reply.json()["error"]["code"] == "queue_full"
    monkeypatch.setattr("qf.serve.engine.LOOKS", 0)
    assert server.http().get("/v1/facts").status_code == 429


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(start: Start, stream: bool) -> None:
    server = start(rows=1)
    hold, engine = Hold(server), server.serving.engine
    hold.on()
    turns = [{"role": "user", "content": "Who started Alibaba?"}]
    body = {"model": "qf/base", "messages": turns, "stream": stream}
    steps: list[int] = []
    kept = engine._take
    engine._take = lambda *a: (steps.append(1), kept(*a))[1]  # type: ignore[method-assign]
    with sent(server, "/v1/chat/completions", body):
        until(lambda: engine.load()["running"] == 1)
        streams = list(engine._streams)
    until(lambda: streams[0].gone)
    hold.off()
    until(lambda: engine.load()["running"] == 0)
    assert len(steps) <= 3  # and not to the end of the reply
    assert server.ask("Who started Alibaba?") == "Alibaba was started by Jack Ma."


def test_learners_that_go_away_free_their_places(start: Start) -> None:
    server = start()
    engine = server.serving.engine
    busy, release = threading.Event(), threading.Event()

    def keep() -> None:
        busy.set()
        release.wait(60)

    holding = asyncio.run_coroutine_threadsafe(engine.run(keep, learns=True), engine._loop)
    until(busy.is_set)
    bodies: list[tuple[str, dict[str, Any]]] = [
        (path, {**body, "stream": stream})
        for stream in (False, True)
        for path, body in (
            ("/v1/facts", {"instruction": HOLLOW[0]}),
            ("/v1/facts/study", {"text": HOLLOW[0]}),
        )
    ]
    clients = [sent(server, path, body) for path, body in bodies]
    until(lambda: engine.load()["learning"] == len(bodies))
    for client in clients:
        client.close()
    until(lambda: engine.load()["learning"] == 0, 20)  # while the model is busy all the time
    release.set()
    holding.result(60)
    assert server.http().get("/v1/facts").json()["total"] == 0


def test_a_lesson_with_a_key_is_learned_though_its_client_left(start: Start) -> None:
    server = start()
    engine = server.serving.engine
    release = threading.Event()
    holding = asyncio.run_coroutine_threadsafe(
        engine.run(lambda: release.wait(60), learns=True), engine._loop
    )
    body = {"instruction": HOLLOW[0], "query": HOLLOW[1], "rewordings": 0}
    client = sent(server, "/v1/facts", body, "Idempotency-Key: once\r\n")
    until(lambda: engine.load()["learning"] == 1)
    client.close()
    release.set()
    holding.result(60)
    replay = server.http().post("/v1/facts", json=body, headers={"Idempotency-Key": "once"})
    assert replay.headers.get("idempotency-replayed") == "true"
    assert server.http().get("/v1/facts").json()["total"] == 1


def test_a_lesson_that_waits_too_long_is_given_up(start: Start) -> None:
    server = start(Settings(timeout=0.2))
    engine = server.serving.engine
    holding = asyncio.run_coroutine_threadsafe(
        engine.run(lambda: time.sleep(0.6), learns=True), engine._loop
    )
    until(lambda: engine.load()["learning"] == 0)
    late = server.http().post("/v1/facts", json={"instruction": HOLLOW[0]})
    assert late.status_code == 504 and late.json()["error"]["code"] == "timeout"
    holding.result(60)
    assert server.http().get("/v1/facts").json()["total"] == 0


def test_a_reply_that_takes_too_long_is_given_up(start: Start) -> None:
    server = start(Settings(timeout=0.2))
    hold = Hold(server)
    hold.on()
    timer = threading.Timer(0.5, hold.off)
    timer.start()
    with pytest.raises(openai.InternalServerError) as late:
        chat(server, "Who started Alibaba?")
    assert late.value.status_code == 504 and late.value.code == "timeout"
    timer.join()
    hold.on()
    stream = chat(server, "Who started Alibaba?", stream=True)
    next(stream)
    timer = threading.Timer(0.5, hold.off)
    timer.start()
    with pytest.raises(openai.APIError) as late_too:
        list(stream)
    assert late_too.value.code == "timeout"
    timer.join()


def test_a_step_that_fails_costs_its_replies_alone(start: Start) -> None:
    server = start()
    batch: Any = server.serving.engine._batch
    step = batch.step

    def fails(*_: Any) -> Any:
        batch.step = step
        raise RuntimeError("out of memory, at a secret place")

    batch.step = fails
    with pytest.raises(openai.InternalServerError) as failed:
        chat(server, "Who started Alibaba?")
    assert failed.value.status_code == 500 and "secret" not in str(failed.value)

    hold, join = Hold(server), batch.join
    hold.on()
    running = chat(server, "Who started Alibaba?", stream=True)
    next(running)
    hold.off()
    batch.join = fails
    with pytest.raises(openai.InternalServerError):
        chat(server, "Hello!")
    batch.join = join
    assert said(running) == "Alibaba was started by Jack Ma."
    assert server.ask("Who started Alibaba?") == "Alibaba was started by Jack Ma."


def test_a_server_that_ends_finishes_its_replies(start: Start) -> None:
    server = start()
    hold = Hold(server)
    hold.on()
    stream = chat(server, "Who started Alibaba?", stream=True)
    next(stream)
    stopping = threading.Thread(
        target=lambda: asyncio.run_coroutine_threadsafe(
            server.serving.engine.stop(), server.serving.engine._loop
        ).result()
    )
    stopping.start()
    until(lambda: server.serving.engine._stopping)
    with pytest.raises(openai.InternalServerError) as refused:
        chat(server, "Who started Alibaba?")
    assert refused.value.status_code == 503 and refused.value.code == "shutting_down"
    hold.off()
    assert said(stream) == "Alibaba was started by Jack Ma."
    stopping.join()


def test_a_server_that_is_told_to_stop_ends_what_was_begun_and_nothing_more(
    start: Start, tmp_path: Path
) -> None:
    server = start()
    made = server.serving
    hold = Hold(server)
    hold.on()
    stream = chat(server, "Who started Alibaba?", stream=True)
    next(stream)
    busy, release = threading.Event(), threading.Event()
    write = made.audit.write

    def slow(*args: Any) -> None:
        write(*args)
        busy.set()
        release.wait(60)

    made.audit.write = slow  # type: ignore[method-assign]
    replies: list[Any] = []

    def post(path: str, **body: Any) -> threading.Thread:
        def send() -> None:
            replies.append(server.http().post(path, json=body))

        thread = threading.Thread(target=send)
        thread.start()
        return thread

    text = f"{HOLLOW[0]} Bo Lark leads Orvane."
    threads = [post("/v1/facts/study", text=text)]
    until(busy.is_set)  # its first sentence is in hand
    threads += [post("/v1/facts", instruction=f"Cy leads Orvane {i}.") for i in range(2)]
    until(lambda: made.engine.load()["learning"] == 2)
    server.stop()
    until(lambda: len(replies) == 2)  # at once, and not in their turn
    assert {r.status_code for r in replies} == {503}
    assert {r.json()["error"]["code"] for r in replies} == {"shutting_down"}
    release.set()
    for thread in threads:
        thread.join()
    told = replies[-1].text
    assert told.count("event: statement") == 1 and HOLLOW_TOLD in told
    assert told.count("event: error") == 1 and "shutting_down" in told
    hold.off()
    assert said(stream) == "Alibaba was started by Jack Ma."
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["learn"]
