"""From a loaded model to a server that listens; the one place where the parts are put together."""

from __future__ import annotations

import ipaddress
import os
import socket
from math import ceil
from pathlib import Path
from typing import Any

import uvicorn

from qf.errors import QFError
from qf.memory import Memory
from qf.model import Model, default_memory, load
from qf.serve.app import create_app
from qf.serve.audit import Audit
from qf.serve.batch import Batch
from qf.serve.engine import Engine
from qf.serve.keys import Keys
from qf.serve.metrics import Metrics
from qf.serve.serving import Serving, Settings
from qf.serve.spaces import BASE, Spaces

GRACE = 15  # seconds beyond a reply's own that a server has to end when it is told to
CONNECTIONS = 512  # that are open at a time; a process may often open no more than 1024 files


def memory_of(model: str | None, memory: Path | None) -> Path:
    """The directory of all spaces, as `qf.load` finds that of a memory."""
    found = memory or os.environ.get("QF_MEMORY")
    name = model or os.environ.get("QF_MODEL") or "embedded"
    return Path(found).expanduser() if found else default_memory(name)


def load_base(directory: Path, model: str | None, **options: Any) -> Model:
    """The model that all spaces share; it has no facts itself. Raises QFError."""
    bound = Memory.bound_to(directory)
    options.setdefault("layer", None)
    if options["layer"] is None and "QF_LAYER" not in os.environ and bound:
        options["layer"] = bound.layer
    return load(model, memory=directory / "spaces" / BASE, solver="gated", **options)


def serving_for(root: Model, directory: Path, settings: Settings, **engine: Any) -> Serving:
    """The parts of a server over a model without facts, and a directory of spaces.

    Raises QFError for keys that cannot be read.
    """
    transformer, metrics = root.transformer, Metrics()
    batch = Batch(transformer, root.family, root.layer, root.generator.pad_id)
    about = {
        "name": root.name,
        "layer": root.layer,
        "layers": len(root.family.layers(transformer)),
        "parameters": transformer.num_parameters(),
    }
    keys = Keys(directory, needed=settings.public)
    keys.needed()  # from now on: keys that go while the model is served open nothing
    return Serving(
        spaces=Spaces(root, directory),
        engine=Engine(
            root.generator, batch, patience=settings.timeout, watch=metrics.watch, **engine
        ),
        keys=keys,
        audit=Audit(directory),
        metrics=metrics,
        settings=settings,
        about=about,
    )


def check_address(host: str, keys: Keys) -> bool:
    """Whether others can reach this address. Raises QFError where they can, and need no key."""
    public = not _loopback(host)
    if public and not keys.all():
        raise QFError(
            f"The address {host} can be reached by others and there are no keys: add one with `qf"
            " keys add`, or leave --host out."
        )
    return public


class Listener(uvicorn.Server):
    """Answers until it is told to stop; then finishes the replies that are under way."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the engine first: what was begun is to end before connections are waited for."""
        self._engine.close()
        await super().shutdown(sockets)


def listener(serving: Serving) -> Listener:
    """What listens for one server."""
    config = uvicorn.Config(
        create_app(serving),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=ceil(serving.settings.timeout) + GRACE,
        timeout_keep_alive=30,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=64 << 10,
    )
    return Listener(config, serving.engine)


def serve(serving: Serving, bound: socket.socket) -> None:
    """Answer at a socket until told to stop; then finish the replies that are under way."""
    listener(serving).run(sockets=[bound])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free. Raises QFError."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise QFError(
            f"The address {host}, port {port}, cannot be used ({why}): choose another with --host"
            " and --port."
        ) from error
    return bound


def _loopback(host: str) -> bool:
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise QFError(f"The host {host!r} is unknown ({error.strerror}): see --host.") from error
    return bool(found) and all(ipaddress.ip_address(str(a)).is_loopback for a in found)
