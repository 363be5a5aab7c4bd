"""Server-sent events: of a step, of an outcome, of what went wrong."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from qf.serve import schemas
from qf.serve.errors import api_error, dumps

SSE: dict[str, Any] = {"content": schemas.EVENTS, "description": "Server-sent events."}


def event(name: str, data: Any) -> str:
    """One server-sent event."""
    return f"event: {name}\ndata: {dumps(data)}\n\n"


def outcome(name: str, task: asyncio.Future[Any]) -> str:
    """The last event: what came out, or what went wrong."""
    error = task.exception()
    return event(name, task.result()) if error is None else failure(name, error)


def failure(name: str, error: BaseException) -> str:
    """The event that ends a stream with what went wrong."""
    told = api_error(error)
    if told.status >= 500:
        logging.getLogger("qf.serve").error("%s: %s", name, error)
    return event("error", told.body())
