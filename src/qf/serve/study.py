"""The route that learns what a text states."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from qf.errors import LessonError
from qf.serve import facts, schemas
from qf.serve.errors import APIError, why_not
from qf.serve.events import SSE, event, failure
from qf.serve.serving import caller_of, serving_of
from qf.study import check_statement, sentences

routes = APIRouter()


@routes.post("/v1/facts/study", responses={200: SSE})
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
                fact = await facts.learn(request, lesson)
            except (LessonError, ValueError) as error:
                long = "The sentence is too long."
                told = why_not(error) if isinstance(error, LessonError) else long
                yield event("statement", {**done, "query": "", "why": told, "fact": None})
                continue
            except Exception as error:
                yield failure("study", error)
                return
            learned += bool(fact["verified"])
            kept = fact if fact["verified"] else None
            why = "" if kept else f"it would answer: {fact['after']}"
            yield event("statement", {**done, "query": fact["query"], "why": why, "fact": kept})
        counts = {"learned": learned, "left_out": len(stated) - learned}
        yield event("done", {**counts, "seconds": round(time.perf_counter() - began, 3)})

    headers = body.ignored()
    return StreamingResponse(content(), media_type="text/event-stream", headers=headers)
