"""OpenAI's objects of a reply: whole, or as chunks of a stream of server-sent events.

Knows streams of the engine, and nothing of how a request came.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from qf.serve.engine import Engine, Piece, Stream
from qf.serve.errors import api_error, dumps
from qf.serve.sampling import Token
from qf.serve.text import token_bytes

Choice = tuple[int, Piece]


class Pieces:
    """What comes of the streams of one request, in the order in which it comes."""

    def __init__(self, engine: Engine, streams: Sequence[Stream]) -> None:
        self._engine, self._streams = engine, streams

    async def __aiter__(self) -> AsyncIterator[list[Choice]]:
        """All that is there, each time that something is. Raises what went wrong."""
        queue, missing = self._streams[0].pieces, len(self._streams)
        try:
            while missing:
                found = [await queue.get()]
                while not queue.empty():
                    found.append(queue.get_nowait())
                for _, piece in found:
                    if piece.error is not None:
                        raise piece.error
                missing -= sum(piece.last for _, piece in found)
                yield found
        finally:
            self._engine.leave(self._streams)

    def usage(self) -> dict[str, int]:
        """Tokens of the prompts, each counted once, and of the replies."""
        prompts = {id(s.prompt): len(s.asked.ids) for s in self._streams if s.asked}
        read, made = sum(prompts.values()), sum(s.generated for s in self._streams)
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}


class Said:
    """A reply that no model gave: that a fact was learned, for example."""

    def __init__(self, text: str, times: int = 1) -> None:
        self._text, self._times = text, times

    async def __aiter__(self) -> AsyncIterator[list[Choice]]:
        """The text, as one piece, for each choice that is asked for."""
        yield [(i, Piece(self._text, finish="stop")) for i in range(self._times)]

    def usage(self) -> dict[str, int]:
        """Nothing was read or made by the model to say this."""
        return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@dataclass
class Form:
    """How one endpoint writes replies. `logprobs`: whether tokens are reported."""

    model: str
    tokenizer: Any
    logprobs: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))
    PREFIX, WHOLE, CHUNK = "", "", ""

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice of the first chunk, where there is one without text."""
        return None

    def delta(self, index: int, piece: Piece) -> dict[str, Any]:
        """The choice of a chunk."""
        raise NotImplementedError

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """The choice of a whole reply."""
        raise NotImplementedError

    def head(self, chunk: bool) -> dict[str, Any]:
        """What each object begins with."""
        kind = self.CHUNK if chunk else self.WHOLE
        name = f"{self.PREFIX}-{self.id}"
        return {"id": name, "object": kind, "created": self.created, "model": self.model}

    def text(self, token: int) -> str:
        """A token as text."""
        return self.tokenizer.decode([token])


class Chat(Form):
    """Replies of /v1/chat/completions."""

    PREFIX, WHOLE, CHUNK = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any]:
        """The chunk that says who speaks."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, index: int, piece: Piece) -> dict[str, Any]:
        """A chunk of text."""
        return {
            "index": index,
            "delta": {"content": piece.text} if piece.text else {},
            "logprobs": self._logprobs(piece.tokens) if piece.tokens else None,
            "finish_reason": piece.finish,
        }

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """A whole message."""
        content = "".join(p.text for p in pieces)
        tokens = [t for p in pieces for t in p.tokens]
        return {
            "index": index,
            "message": {"role": "assistant", "content": content, "refusal": None},
            "logprobs": self._logprobs(tokens) if self.logprobs else None,
            "finish_reason": pieces[-1].finish,
        }

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        content = [
            {**self._one(t.id, t.logprob), "top_logprobs": [self._one(*top) for top in t.top]}
            for t in tokens
        ]
        return {"content": content, "refusal": None}

    def _one(self, token: int, logprob: float | None) -> dict[str, Any]:
        bytes_ = list(token_bytes(self.tokenizer, token))
        return {"token": self.text(token), "logprob": _finite(logprob), "bytes": bytes_}


class Text(Form):
    """Replies of /v1/completions."""

    PREFIX, WHOLE, CHUNK = "cmpl", "text_completion", "text_completion"

    def text(self, token: int) -> str:
        """A token as text; a part of a character as its bytes, to be told from another's."""
        text = super().text(token)
        if "\ufffd" not in text:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes(self.tokenizer, token))

    def delta(self, index: int, piece: Piece) -> dict[str, Any]:
        """A chunk of text."""
        return self.choice(index, [piece])

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """A whole text."""
        tokens = [t for p in pieces for t in p.tokens]
        return {
            "index": index,
            "text": "".join(p.text for p in pieces),
            "logprobs": self._logprobs(tokens) if self.logprobs else None,
            "finish_reason": pieces[-1].finish,
        }

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        return {
            "tokens": [self.text(t.id) for t in tokens],
            "token_logprobs": [_finite(t.logprob) for t in tokens],
            "top_logprobs": [{self.text(i): _finite(p) for i, p in t.top} for t in tokens],
            "text_offset": [t.start for t in tokens],
        }


def _finite(logprob: float | None) -> float:
    """OpenAI's number for what is as good as impossible, where JSON has none."""
    return max(logprob if logprob is not None else -9999.0, -9999.0)


async def whole(form: Form, pieces: Pieces | Said) -> dict[str, Any]:
    """A reply as one object."""
    found: dict[int, list[Piece]] = {}
    async for some in pieces:
        for index, piece in some:
            found.setdefault(index, []).append(piece)
    choices = [form.choice(i, found[i]) for i in sorted(found)]
    return {**form.head(chunk=False), "choices": choices, "usage": pieces.usage()}


async def events(
    form: Form, pieces: AsyncIterator[list[Choice]], usage: Any, include_usage: bool
) -> AsyncIterator[str]:
    """A reply as server-sent events; an error ends it."""
    head = form.head(chunk=True)
    more = {"usage": None} if include_usage else {}
    opened: set[int] = set()

    def data(choices: list[dict[str, Any]], last: dict[str, Any] = more) -> str:
        return f"data: {dumps({**head, 'choices': choices, **last})}\n\n"

    try:
        async for some in pieces:
            lines = []
            for index, piece in some:
                if index not in opened:
                    opened.add(index)
                    if opening := form.opening(index):
                        lines.append(data([opening]))
                if piece.text or piece.tokens or piece.last:
                    lines.append(data([form.delta(index, piece)]))
            yield "".join(lines)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        yield f"data: {dumps(api_error(error).body())}\n\n"
        return
    if include_usage:
        yield data([], {"usage": usage()})
    yield "data: [DONE]\n\n"
