"""What every request passes: an id, its origin, a key, a rate, a size; and what responses carry.

Plain ASGI around the routes, so that nothing of a request is read before it is known to be allowed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qf.errors import QFError
from qf.serve.errors import APIError, error_response
from qf.serve.keys import LOCAL, Caller
from qf.serve.serving import Serving

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'none';"
    " base-uri 'none'; frame-ancestors 'none'"
)
_ALWAYS = {
    "content-security-policy": PAGE_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}
_ROUTES = re.compile(
    r"/(v1/(chat/completions|completions|facts|layers|models|spaces)|page|health|metrics|$)"
)


class Guard:
    """ASGI middleware; finds the caller of each request and answers those that are refused."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        self._app, self._serving = app, serving
        self._rates = Rates(serving.settings.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it with why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        number = given if _ID.fullmatch(given) else f"req-{secrets.token_hex(8)}"
        status = 500
        begun = False

        async def answer(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                carried = MutableHeaders(scope=message)
                carried["x-request-id"] = number
                for name, value in _ALWAYS.items():
                    carried.setdefault(name, value)
            await send(message)

        scope.setdefault("state", {})["request_id"] = number
        try:
            scope["state"]["caller"] = self._admitted(scope, headers)
            await self._app(scope, self._bounded(scope["path"], headers, receive), answer)
        except Exception as error:
            if not isinstance(error, APIError):
                logging.getLogger("qf.serve").exception("Request %s failed", number)
            if begun:
                raise
            await error_response(error)(scope, receive, answer)
        finally:
            found = _ROUTES.match(scope["path"])
            route = found[0] if found else "other"
            self._serving.metrics.requests.labels(route, str(status)).inc()

    def _admitted(self, scope: Scope, headers: Headers) -> Caller:
        """Whose request this is. Raises APIError."""
        path, client = scope["path"], (scope.get("client") or ("unknown",))[0]
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise APIError(
                403, "Pages of other origins may not use this server.", "origin_not_allowed"
            )
        asks = path.startswith("/v1/") or path == "/metrics"
        try:
            caller = self._caller(host, client, headers)
        except QFError as error:
            logging.getLogger("qf.serve").error("%s", error)
            raise APIError(503, "The server cannot read its keys.", "keys_unavailable") from error
        if asks:
            # Those who are refused share what their address may ask, and take it from no key.
            self._rates.check(caller.id if caller else f"address {client}")
        elif caller is None:
            return Caller("none", "nobody", (), ())
        if caller is None:
            raise APIError(
                401,
                "This server needs a key: send it as 'Authorization: Bearer KEY'.",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return caller

    def _caller(self, host: str, client: str, headers: Headers) -> Caller | None:
        """Who asks; None without a right key. Raises QFError, or APIError where none are needed."""
        if self._serving.keys.needed():
            scheme, _, key = headers.get("authorization", "").partition(" ")
            return self._serving.keys.caller(key.strip()) if scheme.lower() == "bearer" else None
        name = re.sub(r":\d+$", "", host).lower()
        # A name may be pointed at this machine by somebody else; an address that is not known,
        # as behind a Unix socket, may be anybody's.
        if name not in _LOCAL_HOSTS or not _loopback(client):
            raise APIError(
                403,
                "A server without keys answers its own machine alone, as localhost: add a key with"
                " `qf keys add`.",
                "host_not_allowed",
            )
        return LOCAL

    def _bounded(self, path: str, headers: Headers, receive: Receive) -> Receive:
        """The body of a request, while it is neither too large nor too late. Raises APIError."""
        settings = self._serving.settings
        most, seconds = settings.body_bytes, settings.body_seconds
        if path == "/v1/facts/import":
            most, seconds = settings.import_bytes, settings.import_seconds
        message = f"The body is larger than {most} bytes."
        announced = headers.get("content-length", "")
        if announced.isdigit() and (len(announced) > 15 or int(announced) > most):
            raise APIError(413, message, "too_large")
        size = 0
        deadline: float | None = asyncio.get_running_loop().time() + seconds

        async def bounded() -> Message:
            nonlocal size, deadline
            try:
                async with asyncio.timeout_at(deadline):
                    part = await receive()
            except TimeoutError:
                late = f"The body did not arrive within {seconds:g} s: send it again."
                raise HTTPException(408, late, {"Connection": "close"}) from None
            if not part.get("more_body", False):
                deadline = None  # what comes next is that the client leaves
            size += len(part.get("body", b""))
            if size > most:
                raise HTTPException(413, message)
            return part

        return bounded


class Rates:
    """How often each caller may come: a bucket of a minute's requests that fills again evenly."""

    def __init__(self, per_minute: int) -> None:
        self._rate = per_minute
        self._left: dict[str, tuple[float, float]] = {}  # requests left, as of when
        self._swept = time.monotonic()

    def check(self, caller: str) -> None:
        """Count a request. Raises APIError when too many came."""
        if not self._rate:
            return
        now = time.monotonic()
        if now >= self._swept + 60:  # whoever has not come for a minute may do so as the new may
            self._left = {k: kept for k, kept in self._left.items() if kept[1] > now - 60}
            self._swept = now
        left, then = self._left.get(caller, (float(self._rate), now))
        left = min(self._rate, left + (now - then) * self._rate / 60)
        if left < 1:
            wait = str(int((1 - left) * 60 / self._rate) + 1)
            raise APIError(
                429,
                f"More than {self._rate} requests in a minute: wait {wait} s.",
                "rate_limit_exceeded",
                headers={"Retry-After": wait},
            )
        self._left[caller] = left - 1, now


def _loopback(address: str) -> bool:
    """Whether an address is of this machine, and reached from it alone."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
