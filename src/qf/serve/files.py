"""Routes of facts as files: export and import."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from qf.export import Imported
from qf.serve import schemas
from qf.serve.errors import JSON, APIError
from qf.serve.facts import KEY, SPACE, write_replaced
from qf.serve.idempotency import awaited, once
from qf.serve.serving import caller_of, request_id, serving_of

routes = APIRouter()


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
            serving.check_room(opened, len(coming.added), len(coming.replaced))

        done = opened.imported(content, check)
        ids = [f.id for f in done.added]
        write_replaced(request, name, done.replaced)
        serving.audit.write_each("import", name, ids, caller.id, request_id(request))
        counts = {"replaced": len(done.replaced), "skipped": len(done.skipped)}
        return {"object": "qf.import", "imported": len(ids), **counts, "ids": ids}

    begin = partial(serving.engine.run, work, learns=True)
    task, again = once(request, key, begin, name.encode(), content)
    return JSON(await awaited(request, task, key), headers=again)


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
