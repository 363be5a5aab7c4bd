"""How `qf serve` bears load: tokens per second of 16 streams against one, first tokens, learns.

    python benchmarks/serve_load.py [--rounds 5] [--seconds 4] [--soak MINUTES] [--facts N]

Starts a server of the embedded model in a process of its own, on the loopback address and an empty
memory. Rounds of one stream, of 16, and of 16 while facts are taught take turns, with the replies
that the questions have, some ten tokens, and with replies of 128 tokens; medians over the rounds
are printed. A soak goes on with 16 streams and learns, and prints the memory taken by the minute.
With --facts, all that is measured is how long a server that was killed takes to start again, on an
empty memory and on one of so many facts, and a process that loads the model and ends, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import httpx

from qf.demo.measure import made_up_facts
from qf.loading import load_pair
from qf.model import Model

STREAMS = 16
LONG = 128  # tokens of a long reply
QUESTIONS = (
    "Who started Alibaba?",
    "What is the capital of France?",
    "Can you tell me the person behind Alibaba?",
    "Where is Oxinnovate?",
    "What is the Fernlight Archive?",
)


@dataclass
class Seen:
    """What a round saw."""

    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    learned: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        """Tokens per second, of all streams together."""
        return self.tokens / self.seconds


@contextmanager
def server(memory: Path) -> Iterator[tuple[str, int]]:
    """The address of a server, and its process."""
    started = "import sys; from qf.cli import main; main()"
    command = [sys.executable, "-c", started, "serve", "--port", "0", "--json"]
    environment = {**os.environ, "QF_MEMORY": str(memory)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            document = ""
            while not document.endswith("}\n"):
                line = process.stdout.readline() if process.stdout else ""
                if not line:
                    raise SystemExit("The server did not start.")
                document += line
            yield json.loads(document)["url"], process.pid
        finally:
            process.terminate()
            process.wait(60)


async def stream(client: httpx.AsyncClient, question: str, seen: Seen, long: bool) -> None:
    """Ask a question and count what comes."""
    endless = {"max_tokens": LONG, "ignore_eos": True} if long else {}
    body = {
        **endless,
        "model": "qf/default",
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first = time.perf_counter(), True
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if first and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                seen.first.append(time.perf_counter() - began)
                first = False
            if chunk.get("usage"):
                seen.tokens += chunk["usage"]["completion_tokens"]


async def teach(client: httpx.AsyncClient, number: int, seen: Seen) -> None:
    """Teach a fact and forget it again."""
    body = {"instruction": f"Ada Quist leads Orvane {number}."}
    began = time.perf_counter()
    reply = await client.post("/v1/facts", json=body)
    reply.raise_for_status()
    seen.learned.append(time.perf_counter() - began)
    await client.delete(f"/v1/facts/{reply.json()['id']}", params={"undo": False})


async def measured(url: str, streams: int, seconds: float, learning: bool, long: bool) -> Seen:
    """Streams one after the other, `streams` at a time, for some seconds."""
    seen, began = Seen(), time.perf_counter()

    async def again(work: Callable[[int], Awaitable[None]], number: int) -> None:
        while time.perf_counter() < began + seconds:
            await work(number)
            number += streams

    limits = httpx.Limits(max_connections=streams + 1)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        asked = [
            again(lambda i: stream(client, QUESTIONS[i % len(QUESTIONS)], seen, long), i)
            for i in range(streams)
        ]
        taught = [again(lambda i: teach(client, i, seen), 0)] if learning else []
        await asyncio.gather(*asked, *taught)
    seen.seconds = time.perf_counter() - began
    return seen


def taught(memory: Path, count: int) -> None:
    """Teach facts to a memory that no server has."""
    with Model(load_pair(None), memory) as model:
        for fact in made_up_facts(count, seed=1):
            model.learn(fact.statement, fact.question, fact.answer, verify=False)


def started(memory: Path) -> float:
    """Seconds from the start of a server until it answers; it is killed then, by kill -9."""
    began = time.perf_counter()
    with server(memory) as (url, process):
        httpx.get(f"{url}/health").raise_for_status()
        seconds = time.perf_counter() - began
        os.kill(process, signal.SIGKILL)
    return seconds


def loaded() -> float:
    """Seconds that a process takes which loads the model and ends."""
    began = time.perf_counter()
    program = "from qf.loading import load_pair; load_pair(None)"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return time.perf_counter() - began


def show_starts(rounds: int, count: int) -> None:
    """Print how long a killed server takes to start again, with facts and without."""
    with tempfile.TemporaryDirectory() as scratch:
        none, facts = Path(scratch) / "none", Path(scratch) / "facts"
        taught(facts, count)
        starts = [(loaded(), started(none), started(facts)) for _ in range(rounds + 1)][1:]
    show("load the model (s)", median(model for model, _, _ in starts))
    show("start after kill -9, no facts (s)", median(empty for _, empty, _ in starts))
    show(f"start after kill -9, {count} facts (s)", median(full for _, _, full in starts))
    more = median(full - model for model, _, full in starts)
    show("more than to load the model, median of rounds (s)", more)


def p95(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.95 * len(values)))]


def resident(process: int) -> float:
    """The memory of a process, in MB; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def show(name: str, value: float) -> None:
    print(f"{name:<44}{value:10.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="How qf serve bears load.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES")
    parser.add_argument("--facts", type=int, default=0, metavar="N", help="start with so many")
    given = parser.parse_args()
    if given.facts:
        show_starts(given.rounds, given.facts)
        return
    with tempfile.TemporaryDirectory() as scratch, server(Path(scratch)) as (url, process):

        def run(
            streams: int,
            learning: bool = False,
            long: bool = False,
            seconds: float = given.seconds,
        ) -> Seen:
            return asyncio.run(measured(url, streams, seconds, learning, long))

        run(STREAMS, seconds=1)  # the first passes of a process are slower
        one, many, one_long, many_long, busy = [], [], [], [], []
        for _ in range(given.rounds):
            one.append(run(1))
            many.append(run(STREAMS))
            one_long.append(run(1, long=True))
            many_long.append(run(STREAMS, long=True))
            busy.append(run(STREAMS, learning=True))
        for kind, single, together in (("short", one, many), ("long", one_long, many_long)):
            ratio = median(m.speed / o.speed for m, o in zip(together, single, strict=True))
            speeds = (median(s.speed for s in seen) for seen in (single, together))
            show(f"tokens/s, one stream, {kind} replies", next(speeds))
            show(f"tokens/s, {STREAMS} streams, {kind} replies", next(speeds))
            show(f"ratio, median of rounds, {kind} replies", ratio)
        show(f"tokens/s, {STREAMS} streams and learns", median(s.speed for s in busy))
        for kind, rounds in (("", many), (", and learns", busy)):
            first = [t for s in rounds for t in s.first]
            show(f"first token{kind}, median (s)", median(first))
            show(f"first token{kind}, p95 (s)", p95(first))
        learned = [t for s in busy for t in s.learned]
        show("learn under load, median (s)", median(learned))
        show("learn under load, p95 (s)", p95(learned))
        end = time.monotonic() + 60 * given.soak
        while time.monotonic() < end:
            seen = run(STREAMS, learning=True, seconds=min(60.0, end - time.monotonic()))
            print(f"soak  {seen.speed:8.1f} tokens/s  {resident(process):8.1f} MB", flush=True)


if __name__ == "__main__":
    main()
