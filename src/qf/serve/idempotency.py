"""One effect for requests that are sent more than once with the same Idempotency-Key.

Kept in this process, the latest ones alone: after a restart a replay is done again, which for a
fact means that it replaces itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from qf.serve.errors import APIError

KEPT = 1024


class Replays:
    """What came of the requests of each caller, by their keys."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], tuple[str, asyncio.Future[Any]]] = OrderedDict()

    async def once(
        self, key: tuple[str, str], digest: str, work: Callable[[], Awaitable[Any]]
    ) -> tuple[Any, bool]:
        """What `work` gives, and whether it was done before; it is done once at the same time too.

        What failed can be tried again. Raises APIError for the key of another request.
        """
        if key in self._known:
            known, future = self._known[key]
            if known != digest:
                message = "This Idempotency-Key was used for another request: take a new one."
                raise APIError(409, message, "idempotency_conflict")
            return await asyncio.shield(future), True
        future = asyncio.ensure_future(work())
        self._known[key] = digest, future
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        try:
            return await asyncio.shield(future), False
        except BaseException:
            if future.done() and (future.cancelled() or future.exception()):
                self._known.pop(key, None)
            raise
