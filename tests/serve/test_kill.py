"""kill -9 at any moment of a mixed load: what was acknowledged is there, and nothing is half there.

One process loads the model and forks a server for each round, so that a start takes no time.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from qf.memory import Memory
from qf.model import Model

FORKING = """
import os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from qf.serve.server import listening, load_base, serve, serving_for
from qf.serve.serving import Settings

directory = Path(sys.argv[1])
base = load_base(directory, "embedded")
for _ in sys.stdin:
    bound = listening("127.0.0.1", 0)
    child = os.fork()
    if not child:
        serve(serving_for(base, directory, Settings()), bound)
        os._exit(0)
    print(child, bound.getsockname()[1], flush=True)
    bound.close()
    os.waitpid(child, 0)
"""


@dataclass
class Known:
    """What was acknowledged, and what was asked for and not answered yet."""

    there: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    teaching: set[str] = field(default_factory=set)
    forgetting: set[str] = field(default_factory=set)


def teach(url: str, known: Known, number: int) -> None:
    """Teach and forget until the server is no more."""
    pick = random.Random(number)
    with httpx.Client(base_url=url, timeout=60) as client, suppress(httpx.TransportError):
        for i in range(1000):
            if known.there and pick.random() < 0.4:
                fact = pick.choice(sorted(known.there))
                known.forgetting.add(fact)
                client.delete(f"/v1/facts/{fact}").raise_for_status()
                known.there.discard(fact)
                known.gone.add(fact)
                known.forgetting.discard(fact)
                continue
            name = f"Orvane {number} {i}"
            body = {
                "instruction": f"Ada leads {name}.",
                "query": f"Who leads {name}?",
                "answer": f"{name} is led by Ada.",
                "rewordings": 0,
            }
            known.teaching.add(f"Ada leads {name}.")
            reply = client.post("/v1/facts", json=body).raise_for_status()
            known.there.add(reply.json()["id"])
            known.teaching.discard(f"Ada leads {name}.")


def chat(url: str) -> None:
    """Ask until the server is no more."""
    turn = {"role": "user", "content": "Who leads Orvane 1 1?"}
    asked = {"model": "qf/default", "messages": [turn], "max_tokens": 8}
    with httpx.Client(base_url=url, timeout=60) as client, suppress(httpx.TransportError):
        while True:
            client.post("/v1/chat/completions", json=asked).raise_for_status()


@pytest.fixture
def forking(tmp_path: Path) -> Iterator[Any]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    yield process
    process.stdin.close()  # type: ignore[union-attr]
    process.wait(60)


def started(forking: Any) -> tuple[int, str]:
    """A new server: its process and its address."""
    forking.stdin.write("\n")
    forking.stdin.flush()
    child, port = map(int, forking.stdout.readline().split())
    return child, f"http://127.0.0.1:{port}"


def served(forking: Any) -> dict[str, dict[str, Any]]:
    """The facts, by id, that a server tells of that is started now; each is asked for as well."""
    child, url = started(forking)
    with httpx.Client(base_url=url, timeout=120) as client:
        listed = client.get("/v1/facts", params={"limit": 100}).raise_for_status().json()
        facts = {fact["id"]: fact for fact in listed["data"]}
        assert len(facts) == min(listed["total"], 100)
        for fact in list(facts.values())[:20]:
            turn = {"role": "user", "content": fact["query"]}
            asked = {"model": "qf/default", "messages": [turn]}
            reply = client.post("/v1/chat/completions", json=asked).raise_for_status().json()
            fact["said"] = reply["choices"][0]["message"]["content"]
    os.kill(child, signal.SIGKILL)
    return facts


def survives(base: Model, forking: Any, directory: Path, rounds: int, least: int) -> int:
    """Kill a server in each round; return how many facts were acknowledged in all.

    On a machine so busy that hardly any is before the kill, or none is left after it, there are up
    to ten times the rounds.
    """
    pick, acknowledged = random.Random(7), 0
    there: set[str] = set()
    for number in range(10 * rounds):
        if number >= rounds and acknowledged > least and there:
            break
        child, url = started(forking)
        known = Known(there=set(there))
        drivers = [
            threading.Thread(target=teach, args=(url, known, number)),
            threading.Thread(target=chat, args=(url,)),
        ]
        for driver in drivers:
            driver.start()
        time.sleep(pick.uniform(0.1, 2.0))
        os.kill(child, signal.SIGKILL)
        for driver in drivers:
            driver.join()
        with Memory.open(directory, base.binding) as memory:
            found = memory.rows()  # with their checksums
        ids = {fact.id for fact, _ in found}
        assert known.there - known.forgetting <= ids, "an acknowledged fact is lost"
        assert not known.gone & ids, "a forgotten fact is back"
        unknown = [fact for fact, _ in found if fact.id not in known.there | known.forgetting]
        assert {fact.instruction for fact in unknown} <= known.teaching
        assert all(fact.rows == len(rows.keys) > 0 for fact, rows in found)
        acknowledged += len(known.there - there) + len(known.gone)
        there = ids
    return acknowledged


def test_what_was_acknowledged_survives_a_kill(base: Model, forking: Any, tmp_path: Path) -> None:
    assert survives(base, forking, tmp_path, 6, 2) > 2
    with Memory.open(tmp_path, base.binding) as memory:
        kept = {fact.id: fact.answer for fact, _ in memory.rows()}
    again = served(forking)
    assert set(again) == set(kept)
    asked = {name: fact["said"] for name, fact in again.items() if "said" in fact}
    assert asked and asked == {name: kept[name] for name in asked}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_survives_three_hundred(base: Model, forking: Any, tmp_path: Path) -> None:
    assert survives(base, forking, tmp_path, 300, 200) > 200
