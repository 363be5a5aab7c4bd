"""Routes of facts: teach, list, forget, bring back, study, export, import; and the layer sweep.

Each runs on the model's thread, between two steps of the replies that are under way.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response, StreamingResponse

from qf.cues import words
from qf.errors import LessonError
from qf.export import Imported
from qf.lesson import AlignedTokens, Lesson
from qf.memory import Fact, FactRows
from qf.method.layers import LayerScore, best, sweeping
from qf.method.probes import KNOWN, PROBES
from qf.model import LearnedToken, OnStep
from qf.serve import schemas
from qf.serve.errors import JSON, APIError, api_error, dumps, why_not
from qf.serve.idempotency import Replays
from qf.serve.serving import Serving, caller_of, request_id, serving_of, unless_gone
from qf.serve.spaces import UNDO_SECONDS, Space
from qf.study import check_statement, sentences

routes = APIRouter()
SPACE = Annotated[schemas.OwnSpace, Query()]
KEY = Annotated[str | None, Header(alias="Idempotency-Key", max_length=256)]
_SSE: dict[str, Any] = {"content": schemas.EVENTS, "description": "Server-sent events."}


# Facts as the API shows them


def shown(fact: Fact, space: str, tokens: list[LearnedToken] | None = None) -> dict[str, Any]:
    """A fact; with its tokens where they are given."""
    fields = fact.as_dict()
    kept = {k: fields[k] for k in schemas.FactFields.model_fields if k in fields and k != "tokens"}
    document = {"object": "qf.fact", "space": space, **kept}
    return document if tokens is None else {**document, "tokens": tokens_shown(tokens)}


def tokens_shown(tokens: list[LearnedToken]) -> list[dict[str, Any]]:
    """The tokens of an answer; the last one is the end of the turn, the first without its space."""
    texts = [t.text if i else t.text.lstrip() for i, t in enumerate(tokens)]
    found: list[dict[str, Any]] = [
        {"text": x, "learned": t.learned, "change": t.change and round(t.change, 4)}
        for x, t in zip(texts, tokens, strict=True)
    ]
    if found:
        found[-1]["end"] = True
    return found


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
        _replaced(request, name, replaced)
        serving.audit.write("learn", name, fact.id, caller.id, request_id(request))
        serving.metrics.facts.labels("learned").inc()
        return whole(space, fact.id)

    found = await serving.engine.run(work, learns=True)
    serving.metrics.learning.observe(time.monotonic() - began)
    return found


def _replaced(request: Request, name: str, facts: Sequence[Fact]) -> None:
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
    fact = await _awaited(request, task, key)
    return JSON(fact, status_code=201 if fact["id"] else 200, headers={**headers, **again})


def _begun(
    request: Request, body: schemas.FactRequest, key: str | None, on_step: OnStep = _unwatched
) -> tuple[asyncio.Future[Any], dict[str, str]]:
    """The learning of a fact, which is one for all requests with a key, and a header to say so."""
    said = dumps(body.model_dump(mode="json", exclude={"stream"}))
    return _once(request, key, lambda: learn(request, body, on_step), said.encode())


async def _awaited(request: Request, task: asyncio.Future[Any], key: str | None) -> Any:
    """What comes of a task: one without a key ends when its client goes away."""
    return await (asyncio.shield(task) if key else unless_gone(request, task))


def _once(
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
            yield _outcome("fact", task)
        finally:
            if not key:  # a client that left frees its place
                task.cancel()

    headers = {**headers, **again}
    return StreamingResponse(content(), media_type="text/event-stream", headers=headers)


class Steps:
    """Turns the steps of a learn into events: what was asked, read, learned and answered."""

    def __init__(self, serving: Serving, tell: Callable[[str, Any], None]) -> None:
        self._model, self._tell = serving.spaces.root, tell
        self._lesson: Lesson | None = None
        self._attempt = 0
        self._began = time.perf_counter()

    def __call__(self, name: str, what: Any) -> None:
        """Tell of one step; see `qf.model.OnStep`."""
        getattr(self, f"_{name}")(what)

    def _question(self, lesson: Lesson) -> None:
        self._lesson = lesson
        fields = {"instruction": lesson.instruction, "query": lesson.query, "answer": lesson.answer}
        self._tell("question", fields)

    def _rewordings(self, others: tuple[str, ...]) -> None:
        self._tell("rewordings", {"rewordings": list(others)})

    def _before(self, answer: str) -> None:
        self._tell("before", {"answer": answer})

    def _passes(self, sequences: tuple[AlignedTokens, AlignedTokens]) -> None:
        self._attempt += 1
        self._began = time.perf_counter()
        for name, sequence in zip(("instruct", "update"), sequences, strict=True):
            ids = sequence.input_ids
            decode = self._model.tokenizer.decode
            answer = decode(ids[sequence.start :], skip_special_tokens=True).strip()
            self._tell(name, {"prompt": decode(ids[: sequence.start]), "answer": answer})

    def _rows(self, rows: FactRows) -> None:
        assert self._lesson is not None
        tokens = tokens_shown(self._model.learned_tokens(self._lesson, rows))
        seconds = round(time.perf_counter() - self._began, 4)
        fields = {"layer": self._model.layer, "rows": len(rows.keys), "seconds": seconds}
        self._tell("learned", {"tokens": tokens, **fields, "attempt": self._attempt, "note": ""})

    def _after(self, outcome: tuple[str, bool]) -> None:
        answer, verified = outcome
        self._tell("after", {"answer": answer, "verified": verified, "attempt": self._attempt})


def event(name: str, data: Any) -> str:
    """One server-sent event."""
    return f"event: {name}\ndata: {dumps(data)}\n\n"


def _outcome(name: str, task: asyncio.Future[Any]) -> str:
    """The last event: what came out, or what went wrong."""
    error = task.exception()
    return event(name, task.result()) if error is None else _failure(name, error)


def _failure(name: str, error: BaseException) -> str:
    """The event that ends a stream with what went wrong."""
    told = api_error(error)
    if told.status >= 500:
        logging.getLogger("qf.serve").error("%s: %s", name, error)
    return event("error", told.body())


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
        done = opened.restore(fact_id, lambda coming: _check_room(serving, opened, coming))
        _replaced(request, name, done.replaced)
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


# Study


@routes.post("/v1/facts/study", responses={200: _SSE})
async def study(body: schemas.StudyRequest, request: Request) -> Response:
    """Learn what a text states, sentence by sentence; a client that leaves ends it."""
    serving = serving_of(request)
    name = serving.space(body.space, caller_of(request))
    if "Idempotency-Key" in request.headers:
        raise APIError(
            400,
            "A study takes no Idempotency-Key: leave it out; a fact that is learned again replaces"
            " itself.",
            param="Idempotency-Key",
        )
    stated = sentences(body.text)
    if not stated:
        raise LessonError("The text states nothing: give whole sentences, one fact in each.")

    async def content() -> AsyncIterator[str]:
        began, learned = time.perf_counter(), 0
        yield event("start", {"total": len(stated)})
        for index, statement in enumerate(stated, 1):
            done: dict[str, Any] = {"index": index, "total": len(stated), "statement": statement}
            try:
                check_statement(statement)
                lesson = schemas.FactRequest(instruction=statement, space=name, rollback=True)
                fact = await learn(request, lesson)
            except (LessonError, ValueError) as error:
                long = "The sentence is too long."
                told = why_not(error) if isinstance(error, LessonError) else long
                yield event("statement", {**done, "query": "", "why": told, "fact": None})
                continue
            except Exception as error:
                yield _failure("study", error)
                return
            learned += bool(fact["verified"])
            kept = fact if fact["verified"] else None
            why = "" if kept else f"it would answer: {fact['after']}"
            yield event("statement", {**done, "query": fact["query"], "why": why, "fact": kept})
        counts = {"learned": learned, "left_out": len(stated) - learned}
        yield event("done", {**counts, "seconds": round(time.perf_counter() - began, 3)})

    headers = body.ignored()
    return StreamingResponse(content(), media_type="text/event-stream", headers=headers)


# Files


@routes.post(
    "/v1/facts/export",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}},
)
async def export(body: schemas.ExportRequest, request: Request) -> Response:
    """Facts with their rows as a file that `import` and `qf import` take; all at one moment."""
    serving = serving_of(request)
    name = serving.space(body.space, caller_of(request))

    def work() -> bytes:
        space = serving.opened(name)
        ids = [space.find(fact_id).id for fact_id in body.ids]
        if not space.model.facts():
            raise APIError(404, f"The space {name!r} holds no facts.", "fact_not_found")
        return space.exported(ids)

    content = await serving.engine.run(work)
    headers = {"Content-Disposition": f'attachment; filename="{name}.qf"', **body.ignored()}
    return Response(content, media_type="application/octet-stream", headers=headers)


@routes.post(
    "/v1/facts/import",
    responses={200: {"model": schemas.ImportFields}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def import_(request: Request, space: SPACE = None, key: KEY = None) -> Response:
    """Remember the facts of a file, all or none."""
    serving, caller = serving_of(request), caller_of(request)
    name = serving.space(space, caller)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/octet-stream":
        message = "Send the file itself, with Content-Type: application/octet-stream."
        raise APIError(415, message, "unsupported_media_type")
    content = await request.body()

    def work() -> dict[str, Any]:
        opened = serving.opened(name)

        def check(coming: Imported) -> None:
            _check_lengths(coming)
            _check_room(serving, opened, coming)

        done = opened.imported(content, check)
        ids = [f.id for f in done.added]
        _replaced(request, name, done.replaced)
        serving.audit.write_each("import", name, ids, caller.id, request_id(request))
        counts = {"replaced": len(done.replaced), "skipped": len(done.skipped)}
        return {"object": "qf.import", "imported": len(ids), **counts, "ids": ids}

    begin = partial(serving.engine.run, work, learns=True)
    task, again = _once(request, key, begin, name.encode(), content)
    return JSON(await _awaited(request, task, key), headers=again)


def _check_room(serving: Serving, space: Space, coming: Imported) -> None:
    serving.check_room(space, len(coming.added), len(coming.replaced))


def _check_lengths(coming: Imported) -> None:
    """Refuse facts that could not be taught here for their length. Raises APIError."""
    for fact in coming.added:
        said = fact.instruction, fact.query, fact.answer, *fact.rewordings
        if max(map(len, said)) > schemas.SENTENCE:
            message = (
                f"A statement, question or answer of the fact {fact.id} has more than"
                f" {schemas.SENTENCE} characters: write the file again without it."
            )
            raise APIError(400, message, "invalid_file")


# Which layer


@routes.get("/v1/layers", responses={200: {"model": schemas.LayerList}})
async def layers(request: Request) -> Response:
    """What teaching at each layer gives, once it was measured."""
    serving = serving_of(request)
    scores: list[LayerScore] = request.app.state.layers
    root, complete = serving.spaces.root, len(scores) == serving.about["layers"]
    return JSON(
        {
            "object": "qf.layers",
            "layer": root.layer,
            "count": serving.about["layers"],
            "best": best(scores).layer if complete else None,
            "data": [_score(s) for s in scores],
        }
    )


@routes.post("/v1/layers", responses={200: _SSE})
async def measure_layers(request: Request) -> Response:
    """Measure it, layer by layer; what was measured before is told again.

    Replies and lessons come between any two probes.
    """
    serving, caller = serving_of(request), caller_of(request)
    if not {"teach", "admin"} & set(caller.scopes):
        raise APIError(403, "Measuring layers needs the scope teach.", "permission_denied")
    scores: list[LayerScore] = request.app.state.layers
    root = serving.spaces.root
    sweeps: asyncio.Lock = request.app.state.sweeping

    async def measured(index: int) -> LayerScore:
        async with sweeps:  # two clients at once measure a layer once
            found = next((s for s in scores if s.layer == index), None)
            if found is not None:
                return found
            where = root.transformer, root.family, root.tokenizer
            pieces = sweeping(*where, PROBES, KNOWN, layers=[index], system=root.system)
            while found is None:
                found = await serving.engine.run(partial(next, pieces), learns=True)
            scores.append(found)
            return found

    async def content() -> AsyncIterator[str]:
        for index in range(serving.about["layers"]):
            try:
                score = await measured(index)
            except Exception as error:
                yield _failure("layers", error)
                return
            yield event("layer", _score(score))
        yield event("done", {"best": best(scores).layer})

    return StreamingResponse(content(), media_type="text/event-stream")


def _score(score: LayerScore) -> dict[str, Any]:
    fields = {"same": score.same, "other": score.other, "kept": score.kept, "score": score.score}
    return {"layer": score.layer, **{k: round(v, 4) for k, v in fields.items()}}
