"""Routes of facts: teach, list, forget, bring back.

Each runs on the model's thread, between two steps of the replies that are under way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from qf.cues import words
from qf.memory import Fact
from qf.model import LearnedToken, OnStep
from qf.serve import schemas
from qf.serve.errors import JSON, APIError, dumps
from qf.serve.events import event, outcome
from qf.serve.idempotency import awaited, once
from qf.serve.serving import caller_of, request_id, serving_of
from qf.serve.spaces import UNDO_SECONDS, Space
from qf.serve.steps import Steps, tokens_shown

routes = APIRouter()
SPACE = Annotated[schemas.OwnSpace, Query()]
KEY = Annotated[str | None, Header(alias="Idempotency-Key", max_length=256)]


# Facts as the API shows them


def shown(fact: Fact, space: str, tokens: list[LearnedToken] | None = None) -> dict[str, Any]:
    """A fact; with its tokens where they are given."""
    fields = fact.as_dict()
    kept = {k: fields[k] for k in schemas.FactFields.model_fields if k in fields and k != "tokens"}
    document = {"object": "qf.fact", "space": space, **kept}
    return document if tokens is None else {**document, "tokens": tokens_shown(tokens)}


def whole(space: Space, fact_id: str) -> dict[str, Any]:
    """A remembered fact with its tokens. Raises APIError."""
    fact, rows = space.model.fact(space.find(fact_id).id)
    return shown(fact, space.name, space.model.learned_tokens(fact, rows, fact.tokens))


# Teaching


def _unwatched(_name: str, _what: Any) -> None:
    """Is told of the steps of a learn that nobody watches."""


async def learn(
    request: Request, body: schemas.FactRequest, on_step: OnStep = _unwatched
) -> dict[str, Any]:
    """Learn a fact in its turn, and write down who taught it; the fact as the API shows it.

    One that was rolled back has no id.
    """
    serving, caller = serving_of(request), caller_of(request)
    name = serving.space(body.space, caller)
    began = time.monotonic()

    def work() -> dict[str, Any]:
        space, replaced = serving.opened(name), list[Fact]()

        def step(named: str, what: Any) -> None:
            if named == "question":
                replaced.extend(space.model.replaced_by(what.query))
                serving.check_room(space, 1, len(replaced))
            on_step(named, what)

        fact = space.model.learn(
            body.instruction,
            body.query,
            body.answer,
            body.significance,
            rewordings=body.rewordings,
            rollback=body.rollback,
            on_step=step,
        )
        if body.rollback and not fact.verified:
            return {**shown(fact, name, []), "id": None}
        write_replaced(request, name, replaced)
        serving.audit.write("learn", name, fact.id, caller.id, request_id(request))
        serving.metrics.facts.labels("learned").inc()
        return whole(space, fact.id)

    found = await serving.engine.run(work, learns=True)
    serving.metrics.learning.observe(time.monotonic() - began)
    return found


def write_replaced(request: Request, name: str, facts: Sequence[Fact]) -> None:
    """Write down which facts are gone because others came."""
    audit, caller = serving_of(request).audit, caller_of(request)
    audit.write_each("replace", name, [f.id for f in facts], caller.id, request_id(request))


@routes.post(
    "/v1/facts",
    status_code=201,
    responses={
        201: {"model": schemas.FactFields},
        200: {
            "model": schemas.FactFields,
            "content": schemas.EVENTS,
            "description": "What was rolled back, or server-sent events.",
        },
    },
)
async def teach(body: schemas.FactRequest, request: Request, key: KEY = None) -> Response:
    """Teach a fact; with `stream`, its steps as server-sent events."""
    serving, caller = serving_of(request), caller_of(request)
    body = body.model_copy(update={"space": serving.space(body.space, caller)})
    headers = body.ignored()
    if body.stream:
        return _live(request, body, key, headers)
    task, again = _begun(request, body, key)
    fact = await awaited(request, task, key)
    return JSON(fact, status_code=201 if fact["id"] else 200, headers={**headers, **again})


def _begun(
    request: Request, body: schemas.FactRequest, key: str | None, on_step: OnStep = _unwatched
) -> tuple[asyncio.Future[Any], dict[str, str]]:
    """The learning of a fact, which is one for all requests with a key, and a header to say so."""
    said = dumps(body.model_dump(mode="json", exclude={"stream"}))
    return once(request, key, lambda: learn(request, body, on_step), said.encode())


def _live(
    request: Request, body: schemas.FactRequest, key: str | None, headers: dict[str, str]
) -> Response:
    """The steps of a learn as they are done; of one that was begun before, its end alone."""
    serving = serving_of(request)
    queue: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
    steps = Steps(serving, lambda name, data: serving.engine.tell(queue, (name, data)))
    queued = {"position": serving.engine.load()["learning"]}
    # One without a key begins with its stream: a client that left before has none of either.
    begun = _begun(request, body, key, steps) if key else None
    again = begun[1] if begun else {}

    async def content() -> AsyncIterator[str]:
        task, _ = begun or _begun(request, body, key, steps)
        task.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            if not again:
                yield event("queued", queued)
            while (item := await queue.get()) is not None:
                yield event(*item)
            yield outcome("fact", task)
        finally:
            if not key:  # a client that left frees its place
                task.cancel()

    headers = {**headers, **again}
    return StreamingResponse(content(), media_type="text/event-stream", headers=headers)


# Looking


@routes.get("/v1/facts", responses={200: {"model": schemas.FactPage}})
async def listed(
    request: Request,
    space: SPACE = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """A page of facts, in the order of teaching or from the newest on."""
    serving = serving_of(request)
    name = serving.space(space, caller_of(request))
    facts = await serving.engine.run(lambda: serving.opened(name).model.facts())
    if order == "desc":
        facts.reverse()
    first = 0
    if after is not None:
        ids = [f.id for f in facts]
        if after not in ids:
            raise APIError(404, "There is no fact to begin after.", "fact_not_found", param="after")
        first = ids.index(after) + 1
    page = facts[first : first + limit]
    return JSON(
        {
            "object": "list",
            "data": [shown(f, name) for f in page],
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
            "has_more": first + limit < len(facts),
            "total": len(facts),
        }
    )


@routes.get("/v1/facts/{fact_id}", responses={200: {"model": schemas.FactFields}})
async def one(fact_id: str, request: Request, space: SPACE = None) -> Response:
    """A fact, and what was learned of each token of its answer."""
    serving = serving_of(request)
    name = serving.space(space, caller_of(request))
    return JSON(await serving.engine.run(lambda: whole(serving.opened(name), fact_id)))


# Forgetting


@routes.delete("/v1/facts/{fact_id}", responses={200: {"model": schemas.Forgotten}})
async def forget(
    fact_id: str, request: Request, space: SPACE = None, undo: bool = True
) -> Response:
    """Forget a fact; with `undo`, its rows stay at hand for a while, in this process alone."""
    serving = serving_of(request)
    name = serving.space(space, caller_of(request))
    await _forget(request, name, fact_id, undo)
    return JSON(
        {
            "object": "qf.fact.deleted",
            "id": fact_id,
            "space": name,
            "deleted": True,
            "undo_seconds": UNDO_SECONDS if undo else 0,
        }
    )


async def _forget(request: Request, name: str, fact_id: str, undo: bool) -> None:
    serving = serving_of(request)

    def work() -> None:
        serving.opened(name).forget(fact_id, undo)
        _forgotten(request, name, fact_id)

    await serving.engine.run(work, learns=True)


def _forgotten(request: Request, name: str, fact_id: str) -> None:
    serving = serving_of(request)
    serving.audit.write("forget", name, fact_id, caller_of(request).id, request_id(request))
    serving.metrics.facts.labels("forgotten").inc()


@routes.post("/v1/facts/{fact_id}/restore", responses={200: {"model": schemas.FactFields}})
async def restore(fact_id: str, request: Request, space: SPACE = None) -> Response:
    """Take back that a fact was forgotten: it has the very rows that it had."""
    serving, caller = serving_of(request), caller_of(request)
    name = serving.space(space, caller)

    def work() -> dict[str, Any]:
        opened = serving.opened(name)
        done = opened.restore(
            fact_id,
            lambda new: serving.check_room(opened, len(new.added), len(new.replaced)),
        )
        write_replaced(request, name, done.replaced)
        serving.audit.write("restore", name, fact_id, caller.id, request_id(request))
        return whole(opened, fact_id)

    return JSON(await serving.engine.run(work, learns=True))


async def forget_statement(request: Request, name: str, statement: str) -> str:
    """Forget the facts that were taught with a statement, and say how many there were."""
    serving = serving_of(request)

    def work() -> int:
        space, said = serving.opened(name), words(statement)
        told = [f for f in space.model.facts() if said in (words(f.instruction), words(f.answer))]
        for fact in told:
            space.forget(fact.id, undo=True)
            _forgotten(request, name, fact.id)
        return len(told)

    count = await serving.engine.run(work, learns=True)
    return f"I have forgotten that: {statement}" if count else "I was not taught that."
