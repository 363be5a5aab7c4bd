"""Of all that pydantic finds in a request, the one error that its sender has a use for."""

from typing import Any

import pytest
from pydantic import ValidationError

from qf.serve import schemas
from qf.serve.invalid import invalid

HELLO = [{"role": "user", "content": "Hello!"}]
TEXT = "a valid string"
CHAT = {"model": "qf/base", "messages": HELLO}


def said(content: Any) -> dict[str, Any]:
    return CHAT | {"messages": [*HELLO, {"role": "user", "content": content}]}


def told(kind: type[schemas.Request], body: dict[str, Any]) -> tuple[str, str]:
    """The field and what is wrong with it."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()]
    found = invalid(errors, body)
    assert found.status == 400 and found.code == "invalid_value"
    field, _, what = found.message.partition(" is not valid: ")
    assert field == f"The field {found.param!r}" and what.endswith(".")
    return str(found.param), what.removesuffix(".")


@pytest.mark.parametrize(
    ("body", "param", "what"),
    [
        (CHAT | {"stop": 3}, "stop", f"input should be {TEXT} or a valid list"),
        (CHAT | {"stop": "a" * 300}, "stop", "value should have at most 256 characters, not 300"),
        (CHAT | {"stop": ["a", 3]}, "stop.1", "input should be a valid string"),
        (CHAT | {"stop": ["a"] * 17}, "stop", "list should have at most 16 items, not 17"),
        (said("\ud800"), "messages.1.content", "the text is not valid Unicode"),
        (said({"text": "a"}), "messages.1.content", f"input should be {TEXT} or a valid list"),
        (said(["a"]), "messages.1.content.0", "input should be an object"),
        (said([{"type": "text"}]), "messages.1.content.0.text", "field required"),
        (
            said([{"type": "text", "text": "a"}, {"type": "image_url"}]),
            "messages.1.content.1.type",
            "input should be 'text'",
        ),
        ({"model": "qf/base"}, "messages", "field required"),
    ],
)  # fmt: skip
def test_a_chat_request(body: dict[str, Any], param: str, what: str) -> None:
    assert told(schemas.ChatRequest, body) == (param, what)


@pytest.mark.parametrize(
    ("prompt", "param", "what"),
    [
        (3, "prompt", "input should be a valid string or a valid list"),
        (" ", "prompt", "the text is empty"),
        ([], "prompt", "list should have at least 1 item, not 0"),
        (["a", 3], "prompt.1", "input should be a valid string"),
        ([1, 2, "a"], "prompt.2", "input should be a valid integer"),
        ([1, -2], "prompt.1", "input should be greater than or equal to 0"),
        ([[1], [2, None]], "prompt.1.1", "input should be a valid integer"),
    ],
)
def test_a_prompt(prompt: Any, param: str, what: str) -> None:
    body = {"model": "qf/base", "prompt": prompt}
    assert told(schemas.CompletionRequest, body) == (param, what)


@pytest.mark.parametrize(
    ("more", "param", "what"),
    [
        ({"significance": [1, -1]}, "significance.1", "input should be greater than or equal to 0"),
        ({"significance": "all"}, "significance", "input should be 'auto'"),
        ({"significance": 1}, "significance", "input should be 'auto' or a valid list"),
        ({"rewordings": 9}, "rewordings", "input should be less than or equal to 8"),
        ({"rewordings": ["a?", " "]}, "rewordings.1", "the text is empty"),
        ({"rewordings": {}}, "rewordings", "input should be a valid integer or a valid list"),
    ],
)  # fmt: skip
def test_a_fact(more: dict[str, Any], param: str, what: str) -> None:
    assert told(schemas.FactRequest, {"instruction": "A is b.", **more}) == (param, what)
