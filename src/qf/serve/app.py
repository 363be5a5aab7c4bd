"""Routes of the OpenAI API, of spaces, and of the page: thin over the engine and the models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response, StreamingResponse

from qf import __version__
from qf.errors import LessonError, QFError
from qf.recall import Asked
from qf.serve import facts, files, layers, schemas, study
from qf.serve.chat import Told, told_in
from qf.serve.errors import JSON, APIError, error_response, why_not
from qf.serve.guard import Guard
from qf.serve.idempotency import Replays
from qf.serve.invalid import invalid, not_json
from qf.serve.replies import Chat, Form, Pieces, Said, Text, events, whole
from qf.serve.sampling import Sampling
from qf.serve.serving import (
    Serving,
    caller_of,
    request_id,
    serving_of,
    too_long,
    unless_gone,
)
from qf.serve.spaces import BASE, SHARED, UNDO_SECONDS

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": schemas.Error, "description": "The request cannot be answered as it is."},
    "5XX": {"model": schemas.Error, "description": "The server cannot answer now."},
}
routes = APIRouter()


def create_app(serving: Serving) -> FastAPI:
    """The application of one server; it starts and stops the engine, and closes the memories."""

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        serving.engine.start()
        try:
            yield
        finally:
            await serving.engine.stop()
            serving.spaces.close()

    app = FastAPI(
        title="qf", version=__version__, lifespan=running, responses=ERRORS,
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    app.state.serving = serving
    app.state.replays, app.state.layers = Replays(), []
    app.state.sweeping = asyncio.Lock()
    app.include_router(routes)
    for part in (facts, study, files, layers):
        app.include_router(part.routes)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(APIError, _failed)
    app.add_exception_handler(QFError, _failed)
    app.add_middleware(Guard, serving=serving)  # type: ignore[arg-type]
    return app


# Errors


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(invalid(error.errors(), error.body))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:  # FastAPI's, of a body that cannot be read
        return error_response(not_json(error.__cause__))
    told = {
        404: (f"There is nothing at {request.url.path[:100]!r}.", "not_found"),
        405: (f"{request.method[:20]} is not allowed here.", "method_not_allowed"),
        408: (str(error.detail), "request_timeout"),
        413: (str(error.detail), "too_large"),
    }
    message, code = told.get(error.status_code, (str(error.detail), None))
    return error_response(
        APIError(error.status_code, message, code, headers=dict(error.headers or {}))
    )


async def _failed(request: Request, error: Exception) -> Response:
    response = error_response(error)
    if response.status_code >= 500:
        logging.getLogger("qf.serve").error("Request %s: %s", request_id(request), error)
    return response


# Replies


@routes.post(
    "/v1/chat/completions",
    responses={
        200: {
            "model": schemas.Reply,
            "content": schemas.EVENTS,
        }
    },
)
async def chat(body: schemas.ChatRequest, request: Request) -> Response:
    """Answer a conversation with the facts of the space that `model` names."""
    serving, caller = serving_of(request), caller_of(request)
    name = serving.space_of_model(body.model, caller)
    turns = [message.turn() for message in body.messages]
    serving.check_prompt([turn["content"] for turn in turns], "messages")
    if turns[-1]["role"] != "user" or not turns[-1]["content"].strip():
        raise APIError(400, "The last message is to be the user's, with text.", param="messages")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    form = Chat(body.model, serving.spaces.root.tokenizer, logprobs is not None)
    told = told_in(turns[-1]["content"]) if serving.settings.learn_from_chat else None
    if told is not None and name != BASE and caller.may("teach", name):
        said = await unless_gone(request, _told(told, name, request))
        return await _reply(body, request, form, Said(said, body.n or 1))

    def prompt() -> Asked:
        try:
            return serving.spaces.root.asked(turns)
        except LessonError as error:
            raise too_long(error, "messages") from error

    limit = body.max_completion_tokens or body.max_tokens
    pieces = _asked(body, serving, name, [prompt] * (body.n or 1), logprobs, limit)
    return await _reply(body, request, form, pieces)


@routes.post(
    "/v1/completions",
    responses={
        200: {
            "model": schemas.Reply,
            "content": schemas.EVENTS,
        }
    },
)
async def completions(body: schemas.CompletionRequest, request: Request) -> Response:
    """Go on with a text, as it is: without the chat template."""
    serving = serving_of(request)
    name = serving.space_of_model(body.model, caller_of(request))
    texts, root = body.prompts, serving.spaces.root
    serving.check_prompt(texts, "prompt")
    for text in texts:
        if not isinstance(text, str) and max(text) >= (size := len(root.tokenizer)):
            message = f"The prompt has the token {max(text)}: the model knows 0 to {size - 1}."
            raise APIError(400, message, "invalid_value", param="prompt")

    def prompt(text: str | list[int]) -> Asked:
        try:
            return root.asked_text(text)
        except LessonError as error:
            raise too_long(error, "prompt") from error

    each = [partial(prompt, text) for text in texts]
    prompts = [p for p in each for _ in range(body.n or 1)]
    pieces = _asked(body, serving, name, prompts, body.logprobs, body.max_tokens or 16, trim=False)
    form = Text(body.model, root.tokenizer, body.logprobs is not None)
    return await _reply(body, request, form, pieces)


def _asked(
    body: schemas.Generation,
    serving: Serving,
    space: str,
    prompts: Sequence[Callable[[], Asked]],
    logprobs: int | None,
    limit: int | None,
    trim: bool = True,
) -> Pieces:
    """Queue the replies that a request asks for."""
    given = {"temperature": body.temperature, "top_p": body.top_p, "seed": body.seed}
    sampling = Sampling(
        **{k: v for k, v in given.items() if v is not None},  # type: ignore[arg-type]
        logprobs=logprobs,
    )
    streams = serving.engine.answer(
        prompts,
        serving.spaces.memories(space),
        sampling,
        max_tokens=min(limit or serving.settings.answer_tokens, serving.settings.answer_tokens),
        stop=body.stops,
        trim=trim,
        endless=bool(body.ignore_eos),
        timeout=serving.settings.timeout,
    )
    return Pieces(serving.engine, streams)


async def _reply(
    body: schemas.Generation, request: Request, form: Form, pieces: Pieces | Said
) -> Response:
    """Send a reply: as events where they are asked for, else as one object."""
    headers = body.ignored()
    if not body.stream:
        return JSON(await unless_gone(request, whole(form, pieces)), headers=headers)
    found = pieces.__aiter__()
    # What is wrong with a request shows when its prompt is read: before anything is sent.
    first = await unless_gone(request, anext(found))

    async def all_of_it() -> AsyncIterator[list[tuple[int, Any]]]:
        try:
            yield first
            async for some in found:
                yield some
        finally:
            await found.aclose()  # type: ignore[attr-defined]

    include = bool(body.stream_options and body.stream_options.include_usage)
    content = events(form, all_of_it(), pieces.usage, include)
    return StreamingResponse(content, media_type="text/event-stream", headers=headers)


async def _told(told: Told, name: str, request: Request) -> str:
    """Learn or forget what a user's turn says, and say so."""
    if told.forget:
        return await facts.forget_statement(request, name, told.statement)
    try:
        body = schemas.FactRequest(instruction=told.statement, space=name, rollback=True)
        fact = await facts.learn(request, body)
    except LessonError as error:
        return f"I could not learn that. {why_not(error)}"
    except ValidationError:
        most = schemas.SENTENCE
        return f"I could not learn that. A fact may have {most} characters, and this is longer."
    if fact["after"] == fact["before"]:
        return f"Asked {fact['query']!r}, I say as before: {fact['after']}"
    if fact["verified"]:
        return f"I will remember that: {fact['after']}"
    return f"I could not learn that: asked {fact['query']!r}, I would say {fact['after']!r}."


# Models and spaces


@routes.get("/v1/models", responses={200: {"model": schemas.ModelList}})
async def models(request: Request) -> Response:
    """The models that the caller may ask: `qf/base`, and one for each space."""
    serving, caller = serving_of(request), caller_of(request)
    names = [BASE, *serving.spaces.names(), *caller.spaces]
    mine = [n for n in dict.fromkeys(names) if caller.may("chat", n)]
    return JSON({"object": "list", "data": [_model(serving, n) for n in mine]})


@routes.get("/v1/models/{model:path}", responses={200: {"model": schemas.ModelFields}})
async def model(model: str, request: Request) -> Response:
    """One of them."""
    serving = serving_of(request)
    return JSON(_model(serving, serving.space_of_model(model, caller_of(request))))


def _model(serving: Serving, space: str) -> dict[str, Any]:
    fields = {"object": "model", "created": serving.started, "owned_by": "qf"}
    return {"id": f"qf/{space}", **fields}


@routes.get("/v1/spaces", responses={200: {"model": schemas.SpaceList}})
async def spaces(request: Request) -> Response:
    """The spaces that the caller may use, and what the server allows."""
    serving, caller = serving_of(request), caller_of(request)
    names = dict.fromkeys([*serving.spaces.names(), *caller.spaces])
    mine = [n for n in names if caller.scopes_in(n)]
    data = await serving.engine.run(lambda: [_space(serving, request, n) for n in mine])
    settings = serving.settings
    return JSON(
        {
            "object": "list",
            "auth": "key" if serving.keys.all() else "none",
            "data": data,
            "limits": {
                "facts_per_space": settings.facts_per_space,
                "prompt_chars": settings.prompt_chars,
                "body_bytes": settings.body_bytes,
                "fact_chars": 2000,
                "undo_seconds": UNDO_SECONDS,
            },
            "model": {**serving.about, "learn_from_chat": settings.learn_from_chat},
        }
    )


@routes.post(
    "/v1/spaces", status_code=201, responses={n: {"model": schemas.SpaceFields} for n in (200, 201)}
)
async def make_space(body: schemas.SpaceRequest, request: Request) -> Response:
    """Make a space; 200 where it is there already."""
    serving = serving_of(request)
    if "admin" not in caller_of(request).scopes:
        raise APIError(403, "Making a space needs a key with the scope admin.", "permission_denied")
    there = serving.spaces.exists(body.name)

    def make() -> dict[str, Any]:
        serving.spaces.create(body.name)
        return _space(serving, request, body.name)

    headers = body.ignored()
    made = await serving.engine.run(make)
    return JSON(made, status_code=200 if there else 201, headers=headers)


def _space(serving: Serving, request: Request, name: str) -> dict[str, Any]:
    known = serving.spaces.exists(name)
    return {
        "object": "qf.space",
        "id": name,
        "model": f"qf/{name}",
        "facts": len(serving.spaces.get(name).model.facts()) if known else 0,
        "scopes": caller_of(request).scopes_in(name),
        "shared": name == SHARED,
    }


# Health, metrics, the page


@routes.head("/health", include_in_schema=False)
@routes.get("/health", responses={200: {"model": schemas.Health}})
async def health(request: Request) -> Response:
    """Whether the server answers with its facts: 503 while their directory is gone."""
    spaces = serving_of(request).spaces
    spaces.check()
    return JSON({"status": "ok", "model": spaces.root.name, "version": __version__})


@routes.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Numbers for Prometheus; where there are keys, for one with the scope admin."""
    serving = serving_of(request)
    if "admin" not in caller_of(request).scopes:
        raise APIError(403, "Metrics need a key with the scope admin.", "permission_denied")
    content = serving.metrics.text(serving.engine.load)
    return Response(content, media_type="text/plain; version=0.0.4")


@routes.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page() -> Response:
    """The page."""
    return _page_file("index.html")


@routes.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def page_file(name: str) -> Response:
    """A file of the page."""
    return _page_file(name)


def _page_file(name: str) -> Response:
    """A file of the folder `page` itself, by its name alone."""
    folder = Path(str(resources.files("qf.serve").joinpath("page")))
    found = {p.name: p for p in folder.iterdir() if p.is_file()} if folder.is_dir() else {}
    if name not in found:
        raise HTTPException(404)
    return FileResponse(found[name], headers={"Cache-Control": "no-cache"})
