"""What to tell of a request that is not valid: one field, and one sentence.

Knows pydantic's errors. Where a field may be of several kinds (a union), pydantic has errors for
each of them and puts names of its own into the path; what counts is the kind that was meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qf.serve.errors import APIError

Path = tuple[int | str, ...]
_NAME = "the name of a field in it is not valid Unicode"


def invalid(errors: Sequence[Any], body: Any) -> APIError:
    """The error of a request, of all that pydantic found in it; never repeats a value."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return not_json()
    if tuple(first["loc"]) == ("body",):
        return _no_object(body)
    path, what = _meant(errors, body) if first["loc"][0] == "body" else (first["loc"][1:], first)
    param = ".".join(map(str, path))
    message = f"The field {param!r} is not valid: {_sentence(what)}."
    return APIError(400, message, "invalid_value", param=param)


def not_json(why: BaseException | None = None) -> APIError:
    """The error of a body that cannot be read, with what reading it raised."""
    message = "The body is not valid JSON."
    if isinstance(why, UnicodeDecodeError):
        message = "The body is not valid UTF-8: send JSON in UTF-8."
    elif isinstance(why, RecursionError):
        message = "The body is nested too deeply: send fewer levels."
    elif isinstance(why, ValueError):
        message = "The body holds a number with too many digits: send a smaller one."
    return APIError(400, message, "invalid_json")


def _no_object(body: Any) -> APIError:
    if isinstance(body, bytes):
        message = "The body is not sent as JSON: add the header Content-Type: application/json."
        return APIError(415, message, "unsupported_media_type")
    message = "The body is empty: send a JSON object."
    if isinstance(body, dict):
        message = f"The body is not valid: {_NAME}."
    elif body is not None:
        message = "The body is no JSON object: send one."
    return APIError(400, message, "invalid_value")


def _meant(errors: Sequence[Any], body: Any) -> tuple[Path, Any]:
    """The field of the first error, and of its kinds' errors the one of the kind that was meant."""
    path, union = _walked(errors[0], body)
    if union is None:
        return path, errors[0]
    field, found = path[:union], []
    for error in errors:
        path, place = _walked(error, body)
        if place == union and path[:union] == field:
            found.append((path != field or _fits(error), path, error))
    fits, path, error = max(found, key=lambda f: f[:2])  # the one that went farthest
    if fits:
        return path, error
    # Of none of the kinds: each of them is named.
    kinds = dict.fromkeys(e["msg"].removeprefix("Input should be ") for _, _, e in found)
    return field, {**error, "msg": f"Input should be {' or '.join(kinds)}"}


def _walked(error: Any, body: Any) -> tuple[Path, int | None]:
    """The fields and places of an error's path, and how many of them lead to a union, if any."""
    at, union = body, None
    path: list[int | str] = []
    for part in error["loc"][1:]:
        absent = error["type"] == "missing" and part == error["loc"][-1]
        if isinstance(at, dict) and (part in at or absent):
            at = at.get(part)
        elif isinstance(at, list) and isinstance(part, int):
            at = at[part]
        else:  # pydantic's name of a kind
            union = len(path) if union is None else union
            continue
        path.append(part)
    return tuple(path), union


def _fits(error: Any) -> bool:
    """Whether the value is of the kind that an error is about, and wrong in another way."""
    if error["type"] == "literal_error":
        return isinstance(error["input"], str)
    return not error["type"].endswith("_type")


def _sentence(error: Any) -> str:
    if error["type"] == "model_type":  # whose message names a class
        return "input should be an object"
    if error["type"] == "string_unicode":
        return _NAME
    what = error["msg"].removeprefix("Value error, ").replace(" after validation", "")
    if isinstance(error["input"], str):
        what = what.replace(" items", " characters")
    return what[:1].lower() + what[1:]
