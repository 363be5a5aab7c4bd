"""What the routes work with: one server's spaces, engine, keys and limits, and who is asking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request

from qf.errors import LessonError
from qf.serve.audit import Audit
from qf.serve.engine import Engine
from qf.serve.errors import APIError
from qf.serve.keys import Caller, Keys
from qf.serve.metrics import Metrics
from qf.serve.spaces import BASE, DEFAULT, Space, Spaces

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What a server allows; 0 for `rate` is no bound."""

    learn_from_chat: bool = False
    public: bool = False  # others can reach it, so that every request needs a key
    rate: int = 0  # requests in a minute, of one caller
    body_bytes: int = 1 << 20
    import_bytes: int = 64 << 20
    body_seconds: float = 60.0  # that a body may take to arrive
    import_seconds: float = 600.0
    prompt_chars: int = 100_000
    answer_tokens: int = 1024
    facts_per_space: int = 10_000
    timeout: float = 300.0  # seconds for one reply


@dataclass
class Serving:
    """One server."""

    spaces: Spaces
    engine: Engine
    keys: Keys
    audit: Audit
    metrics: Metrics
    settings: Settings
    about: dict[str, Any]  # the model, for people and for the page
    started: int = field(default_factory=lambda: int(time.time()))

    def space_of_model(self, model: str, caller: Caller) -> str:
        """The space whose model this is, if the caller may ask it. Raises APIError."""
        name = model.removeprefix("qf/")
        known = name == BASE or name in caller.spaces or self.spaces.exists(name)
        if not model.startswith("qf/") or not known or not caller.may("chat", name):
            # One answer for a space that is not there and for another's.
            raise APIError(
                404,
                f"The model {model[:80]!r} does not exist, or this key has no access to it: list"
                " them with GET /v1/models.",
                "model_not_found",
                param="model",
            )
        return name

    def space(self, name: str | None, caller: Caller, scope: str = "teach") -> str:
        """A space's name, if the caller may do this there; None is for its first. Raises APIError.

        The first space of a key is the first that it was made for, else `default`.
        """
        if name is None:
            name = caller.spaces[0] if caller.spaces else DEFAULT
        if not caller.may(scope, name):
            if name in caller.spaces:
                raise APIError(403, f"This key may not {scope} in {name!r}.", "permission_denied")
            raise APIError(
                403, f"This key has no access to the space {name!r}.", "permission_denied"
            )
        if not self.spaces.exists(name) and name not in caller.spaces:
            raise APIError(404, f"There is no space {name!r}.", "space_not_found", param="space")
        return name

    def opened(self, name: str) -> Space:
        """A space that a caller may use, on the model's thread; a key's own is made when needed."""
        return self.spaces.create(name)

    def check_room(self, space: Space, new: int, replaced: int) -> None:
        """Refuse more facts than a space may hold; those that are replaced go. Raises APIError."""
        more = new - replaced
        if more > 0 and len(space.model.facts()) + more > self.settings.facts_per_space:
            raise APIError(
                409,
                f"The space {space.name!r} may hold {self.settings.facts_per_space} facts and has"
                f" no room for {more} more: forget some first.",
                "space_full",
            )

    def check_prompt(self, texts: Sequence[Sized], param: str) -> None:
        """Refuse what is too long to be looked at. Raises APIError."""
        if sum(map(len, texts)) > self.settings.prompt_chars:
            raise too_long(
                f"The prompt has more than {self.settings.prompt_chars} characters.", param
            )


def too_long(message: str | LessonError, param: str) -> APIError:
    """The error of a prompt over the context."""
    return APIError(400, str(message), "context_length_exceeded", param=param)


def serving_of(request: Request) -> Serving:
    """The server that a request came to."""
    return request.app.state.serving


def caller_of(request: Request) -> Caller:
    """Who sent a request, as the guard found."""
    return request.state.caller


def request_id(request: Request) -> str:
    """The id of a request, which its response carries."""
    return request.state.request_id


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives, unless the client goes away before: then it is cancelled."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, left = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise APIError(499, "The client went away.")
        return task.result()
    finally:
        task.cancel()
        left.cancel()
