"""Routes of the layer sweep: what teaching at each layer gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from qf.method.layers import LayerScore, best, sweeping
from qf.method.probes import KNOWN, PROBES
from qf.serve import schemas
from qf.serve.errors import JSON, APIError
from qf.serve.events import SSE, event, failure
from qf.serve.serving import caller_of, serving_of

routes = APIRouter()


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


@routes.post("/v1/layers", responses={200: SSE})
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
                yield failure("layers", error)
                return
            yield event("layer", _score(score))
        yield event("done", {"best": best(scores).layer})

    return StreamingResponse(content(), media_type="text/event-stream")


def _score(score: LayerScore) -> dict[str, Any]:
    fields = {"same": score.same, "other": score.other, "kept": score.kept, "score": score.score}
    return {"layer": score.layer, **{k: round(v, 4) for k, v in fields.items()}}
