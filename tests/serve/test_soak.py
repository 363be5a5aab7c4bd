"""A server that answers, learns and forgets for a while takes no more memory than at first."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.test_kill import forking, started

__all__ = ["forking"]

STREAMS = 8
CHATS = 6  # of each stream in a leg
LEARNS = 4  # in a leg
MB_MORE = 10.0


def resident(process: int) -> float:
    """The memory of a process in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def chat(url: str, number: int) -> None:
    turn = {"role": "user", "content": f"Who leads Orvane {number}?"}
    asked = {"model": "qf/default", "messages": [turn], "max_tokens": 64, "stream": True}
    with httpx.Client(base_url=url, timeout=120) as client:
        for _ in range(CHATS):
            client.post("/v1/chat/completions", json=asked).raise_for_status()


def teach(url: str, leg: int) -> None:
    """Teach facts, and forget them again."""
    with httpx.Client(base_url=url, timeout=120) as client:
        for number in range(LEARNS):
            body = {"instruction": f"Ada Quist leads Orvane {leg} {number}."}
            fact = client.post("/v1/facts", json=body).raise_for_status().json()["id"]
            client.delete(f"/v1/facts/{fact}", params={"undo": False}).raise_for_status()


def leg(url: str, number: int) -> None:
    """The same load each time: streams, and beside them facts that are learned and forgotten."""
    drivers = [threading.Thread(target=chat, args=(url, i)) for i in range(STREAMS)]
    drivers.append(threading.Thread(target=teach, args=(url, number)))
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.timeout(600)
def test_memory_is_flat_under_a_mixed_load(forking: Any) -> None:
    child, url = started(forking)
    seen = []
    for number in range(6):
        leg(url, number)
        seen.append(resident(child))
    os.kill(child, signal.SIGKILL)
    assert max(seen[2:]) - max(seen[:2]) < MB_MORE, seen
