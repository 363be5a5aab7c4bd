"""Every error as OpenAI's schema has it: message, type, param, code; and a status.

`{"error": {"message": "One sentence.", "type": "invalid_request_error", "param": null, ...}}`
"""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.responses import Response

from qf.errors import LessonError, MemoryFault, QFError


class APIError(Exception):
    """An error with the status and the fields that a client is to see."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The error as a client reads it."""
        kind = _TYPES.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        fields = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": fields}


_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class OverloadError(APIError):
    """Too much waits already."""

    def __init__(self, what: str, retry_after: int) -> None:
        message = f"Too many {what} are waiting: try again in {retry_after} s."
        super().__init__(429, message, "queue_full", headers={"Retry-After": str(retry_after)})


class TooManyError(APIError):
    """One request asks for more than can ever wait at once."""

    def __init__(self, asked: int, bound: int) -> None:
        message = (
            f"The request asks for {asked} replies and the server takes {bound} at once: send fewer"
            " prompts in a request, or a smaller n."
        )
        super().__init__(400, message, "too_many_replies")


class StoppedError(APIError):
    """The server is shutting down."""

    def __init__(self) -> None:
        message = "The server is shutting down: try again in a moment."
        super().__init__(503, message, "shutting_down", headers={"Retry-After": "5"})


class LateError(APIError):
    """What was asked for took longer than the server gives it."""

    def __init__(
        self, message: str = "The reply took too long and was given up: ask for less."
    ) -> None:
        super().__init__(504, message, "timeout")


def api_error(error: BaseException) -> APIError:
    """What a client is told of any error; of one that nobody expected, nothing."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, LessonError):
        return _unusable(error)
    if isinstance(error, MemoryFault):
        # Its message names directories of this machine.
        message = "The memory of this space cannot be used now; the server's log says why."
        return APIError(503, message, "memory_unavailable", headers={"Retry-After": "5"})
    if isinstance(error, QFError):
        return APIError(400, str(error))
    return APIError(500, "The server failed; its log says why, under the request's id.")


_NAMED = re.compile(r"The (instruction|query|answer|significance|rewordings|text)\b")
_REMEDY = re.compile(r"[:,] (?:or )?give [a-z ]+ (with --(query|answer))\.$")


def _unusable(error: LessonError) -> APIError:
    """A lesson's error: where the command line has an option, a request has a field."""
    message = str(error)
    named, remedy = _NAMED.match(message), _REMEDY.search(message)
    param = named[1] if named else None
    if remedy:
        message = f"{message[: remedy.start(1)]}in the field {remedy[2]!r}."
        param = remedy[2] if message.startswith("The model") else "instruction"
    return APIError(400, message, "invalid_lesson", param=param)


def why_not(error: LessonError) -> str:
    """Why a sentence was not learned, for those who can give neither question nor answer."""
    return _REMEDY.sub(".", str(error))


class JSON(Response):
    """A JSON document in ASCII, which carries any text, lone surrogates too."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the document."""
        return dumps(content).encode("ascii")


def dumps(document: Any) -> str:
    """One line of JSON in ASCII, and without `<`: harmless wherever a browser shows it."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")  # outside of strings JSON has none


def error_response(error: BaseException) -> JSON:
    """The response that tells a client of an error."""
    told = api_error(error)
    return JSON(told.body(), status_code=told.status, headers=told.headers)
