"""One effect for requests that are sent more than once with the same Idempotency-Key.

Kept in this process, the latest ones alone: after a restart a replay is done again, which for a
fact means that it replaces itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request

from qf.serve.errors import APIError
from qf.serve.serving import caller_of, unless_gone

KEPT = 1024


class Replays:
    """What came of the requests of each caller, by their keys."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], tuple[str, asyncio.Future[Any]]] = OrderedDict()

    def begin(
        self, key: tuple[str, str], digest: str, work: Callable[[], Coroutine[Any, Any, Any]]
    ) -> tuple[asyncio.Future[Any], bool]:
        """The task that does `work`, and whether it was begun before, be it done or under way.

        What failed can be tried again. Raises APIError for the key of another request.
        """
        if key in self._known:
            known, future = self._known[key]
            if known != digest:
                message = "This Idempotency-Key was used for another request: take a new one."
                raise APIError(409, message, "idempotency_conflict")
            return future, True
        future = asyncio.ensure_future(work())
        self._known[key] = entry = digest, future

        def done(_: asyncio.Future[Any]) -> None:
            failed = future.cancelled() or future.exception() is not None
            if failed and self._known.get(key) is entry:
                del self._known[key]

        future.add_done_callback(done)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return future, False


async def awaited(request: Request, task: asyncio.Future[Any], key: str | None) -> Any:
    """What comes of a task: one without a key ends when its client goes away."""
    return await (asyncio.shield(task) if key else unless_gone(request, task))


def once(
    request: Request, key: str | None, work: Callable[[], Coroutine[Any, Any, Any]], *said: bytes
) -> tuple[asyncio.Future[Any], dict[str, str]]:
    """The task that does `work`, begun now or for an earlier request of this key that said this."""
    if not key:
        return asyncio.ensure_future(work()), {}
    replays: Replays = request.app.state.replays
    digest = hashlib.sha256(request.url.path.encode())
    for part in said:
        digest.update(b"\n")
        digest.update(part)
    task, again = replays.begin((caller_of(request).id, key), digest.hexdigest(), work)
    return task, {"Idempotency-Replayed": "true"} if again else {}
