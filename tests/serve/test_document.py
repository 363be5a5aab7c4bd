"""Requests made from the OpenAPI document: never a 500, always what the document says."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from qf.model import Model
from qf.serve.server import serving_for
from qf.serve.serving import Settings
from tests.serve.servers import Server, serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
FUZZING = settings(
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def fuzzed(base: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that says little and learns little, so that many requests fit into a minute."""
    few = Settings(facts_per_space=2, answer_tokens=2)
    with serving(serving_for(base, tmp_path_factory.mktemp("fuzzed"), few)) as server:
        yield server


def operations(server: Server) -> list[Any]:
    document = server.http().get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    return [result.ok() for result in schema.get_all_operations()]


def fuzz(server: Server, examples: int) -> int:
    """Send requests of each operation, half of them against the document; return how many."""
    sent = 0
    for operation in operations(server):
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            cases = operation.as_strategy(generation_mode=mode)

            @settings(FUZZING, max_examples=examples)
            @given(cases)
            def send(case: Any) -> None:
                nonlocal sent
                response = case.call(base_url=server.url, timeout=300)
                sent += 1
                case.validate_response(response, checks=CHECKS)
                if "json" in response.headers.get("content-type", [""])[0]:
                    assert response.content.isascii() and b"<" not in response.content

            with suppress(Unsatisfiable):  # without parameters there is nothing to be wrong
                send()
    return sent


def test_the_document_names_every_route(fuzzed: Server) -> None:
    names = {operation.label for operation in operations(fuzzed)}
    assert {"POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models"} <= names
    assert {"POST /v1/facts", "DELETE /v1/facts/{fact_id}", "POST /v1/facts/study"} <= names


def test_requests_made_from_the_document(fuzzed: Server) -> None:
    assert fuzz(fuzzed, examples=8) > 100


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ten_thousand_requests_made_from_the_document(fuzzed: Server) -> None:
    sent = fuzz(fuzzed, examples=460)
    print(f"{sent} requests")
    assert sent >= 10_000
