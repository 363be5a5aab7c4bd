"""What requests may say, and for the OpenAPI document what responses say.

Unknown fields are accepted, as OpenAI does, and named in a header; wrong types are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from qf.serve.sampling import TOP


def _valid(text: str) -> str:
    """Refuse lone surrogates, which JSON can write and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text is not valid Unicode") from None
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    return text


def _unrepeated(echo: Any) -> Any:
    if echo is True:
        raise ValueError("a reply does not repeat its prompt, put that in front of it yourself")
    return echo


Text = Annotated[str, AfterValidator(_valid)]
Said = Annotated[str, AfterValidator(_valid), AfterValidator(_said), Field(pattern=r"\S")]
SENTENCE = 2000  # characters of a statement, a question or an answer
Sentence = Annotated[Said, Field(max_length=SENTENCE)]
SpaceName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
OwnSpace = Annotated[
    SpaceName | None,
    Field(description="Left out: the first space of the key, or `default` where it has none."),
]
Count = Annotated[int, Field(ge=1, le=1 << 31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]


class Request(BaseModel):
    """A body: types are taken as they are written, fields that are not known are kept apart."""

    model_config = ConfigDict(strict=True, extra="allow")

    def ignored(self) -> dict[str, str]:
        """The header that names fields which were not understood, as many as it may hold."""
        names, most = ", ".join(dict.fromkeys(self._unknown())), 1000
        if len(names) > most:
            names = f"{names[:most].rpartition(', ')[0]}, ..."
        return {"X-QF-Ignored": names} if names else {}

    def _unknown(self) -> Iterator[str]:
        """The fields that are not known here and below, percent-encoded, dots between levels."""
        yield from (quote(name[:64]) for name in self.model_extra or {} if name)
        for name in type(self).model_fields:
            held = getattr(self, name)
            for item in held if isinstance(held, list) else [held]:
                if isinstance(item, Request):
                    yield from (f"{name}.{below}" for below in item._unknown())


class TextPart(Request):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text


class Message(Request):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=64)] | None = None

    def turn(self) -> dict[str, str]:
        """The turn as chat templates take it."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "\n".join(part.text for part in parts)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(Request):
    """What a stream says besides the reply."""

    include_usage: bool | None = False


class Generation(Request):
    """What chat and text completions have in common."""

    model: Text
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    stop: (
        Annotated[Text, Field(max_length=256)]
        | Annotated[list[Annotated[Text, Field(max_length=256)]], Field(max_length=16)]
        | None
    ) = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    user: Text | None = None
    ignore_eos: bool | None = False  # as vLLM has it: go on to max_tokens, for load tests

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatRequest(Generation):
    """POST /v1/chat/completions. Without a temperature the reply is greedy."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=512)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None


class CompletionRequest(Generation):
    """POST /v1/completions. Without a temperature the reply is greedy."""

    prompt: (
        Said
        | Annotated[list[Said], Field(min_length=1, max_length=16, fail_fast=True)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=16, fail_fast=True)]
    )
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: Annotated[Literal[False] | None, BeforeValidator(_unrepeated)] = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or its tokens."""
        one = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if one else list(self.prompt)  # type: ignore[list-item, arg-type]


class FactRequest(Request):
    """POST /v1/facts: what is to be known; question and answer are the model's own by default."""

    instruction: Sentence
    query: Sentence | None = None
    answer: Sentence | None = None
    significance: (
        Literal["auto"]
        | Annotated[list[Annotated[Finite, Field(ge=0)]], Field(max_length=512)]
        | None
    ) = "auto"
    rewordings: (
        Annotated[int, Field(ge=0, le=8)] | Annotated[list[Sentence], Field(max_length=8)] | None
    ) = None
    rollback: bool = False
    stream: bool = False
    space: OwnSpace = None


class StudyRequest(Request):
    """POST /v1/facts/study: a text, of which every sentence is learned that verifies."""

    text: Annotated[Said, Field(max_length=200_000)]
    space: OwnSpace = None


class ExportRequest(Request):
    """POST /v1/facts/export: facts of these ids, or all."""

    ids: Annotated[list[Text], Field(max_length=10_000)] = []
    space: OwnSpace = None


class SpaceRequest(Request):
    """POST /v1/spaces."""

    name: SpaceName


# Responses

EVENTS: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
            "required": ["data"],
        }
    }
}
"""Server-sent events, for the document: each has data, a JSON document."""


class ErrorFields(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """OpenAI's form of an error."""

    error: ErrorFields


class TokenFields(BaseModel):
    text: str
    learned: bool
    change: float | None
    end: bool | None = None


class FactFields(BaseModel):
    """A remembered fact; `tokens` is not in lists. One that was rolled back has no `id`."""

    object: Literal["qf.fact"]
    id: str | None
    space: str
    instruction: str
    query: str
    answer: str
    rewordings: list[str]
    significance: Any
    before: str
    after: str
    verified: bool | None
    note: str
    layer: int
    rows: int
    seconds: float
    created: str
    consolidated: bool
    tokens: list[TokenFields] | None = None


class FactPage(BaseModel):
    object: Literal["list"]
    data: list[FactFields]
    first_id: str | None
    last_id: str | None
    has_more: bool
    total: int


class Forgotten(BaseModel):
    object: Literal["qf.fact.deleted"]
    id: str
    space: str
    deleted: bool
    undo_seconds: int


class ImportFields(BaseModel):
    object: Literal["qf.import"]
    imported: int
    replaced: int
    skipped: int
    ids: list[str]


class SpaceFields(BaseModel):
    object: Literal["qf.space"]
    id: str
    model: str
    facts: int
    scopes: list[str]
    shared: bool


class SpaceList(BaseModel):
    object: Literal["list"]
    auth: Literal["none", "key"]
    data: list[SpaceFields]
    limits: dict[str, int]
    model: dict[str, Any]


class ModelFields(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelFields]


class LayerFields(BaseModel):
    layer: int
    same: float
    other: float
    kept: float
    score: float


class LayerList(BaseModel):
    object: Literal["qf.layers"]
    layer: int
    count: int
    best: int | None
    data: list[LayerFields]


class Health(BaseModel):
    status: Literal["ok"]
    model: str
    version: str


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Reply(BaseModel):
    """A chat.completion or a text_completion."""

    id: str
    object: Literal["chat.completion", "text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage
