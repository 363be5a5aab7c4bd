"""Tokens of a reply to text, piece by piece: whole characters, and nothing of a stop string.

Also a token to its bytes, which may be a part of a character. Knows a tokenizer, no model.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import Any


class Transcript:
    """The text of one reply as its tokens come.

    `trim` leaves out space around the reply, as `Model.ask` does. Where one of the strings in
    `stop` is found, across tokens or not, the text ends in front of it and `stopped` is true.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), trim: bool = True) -> None:
        self._tokenizer, self._stop, self._trim = tokenizer, [s for s in stop if s], trim
        self._ids: list[int] = []
        self._begin = self._read = 0  # decoded last, as context of what comes: ids[begin:read]
        self._held = ""  # that may be the beginning of a stop string, or space at the end
        self._begun = not trim
        self.starts: list[int] = []  # where each token begins in the text, before it is trimmed
        self._length = self._sure = 0  # of that text: all of it, and what is in the reply
        self.stopped = False

    @property
    def said(self) -> int:
        """How many of the tokens have a part in the text by now; those cut from it have none."""
        return bisect_left(self.starts, self._sure)

    def add(self, token: int) -> str:
        """Take the next token; return the text that is certain now, which may be none."""
        self._ids.append(token)
        self.starts.append(self._length)
        return self._certain(self._decoded(final=False))

    def end(self) -> str:
        """The rest of the text, when no token follows."""
        if self.stopped:
            return ""
        text = self._certain(self._decoded(final=True), final=True)
        if not self.stopped:
            self._sure = self._length + 1  # tokens without text are in the reply, too
        return text.rstrip() if self._trim else text

    def _decoded(self, final: bool) -> str:
        """The text of the tokens that were not decoded yet, once it ends in a whole character."""
        known = self._text(self._ids[self._begin : self._read])
        text = self._text(self._ids[self._begin :])
        if not final and text.endswith("\ufffd"):
            return ""
        self._begin, self._read = self._read, len(self._ids)
        return text[len(known) :]

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _certain(self, new: str, final: bool = False) -> str:
        text = self._held + new
        self._length += len(new)
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        found = [at for at in (text.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            said = text[: min(found)]
            said = said.rstrip() if self._trim else said
        else:
            keep = 0 if final else self._uncertain(text)
            said, self._held = text[: len(text) - keep], text[len(text) - keep :]
        if said:
            self._sure = self._length - len(text) + len(said)
        return said

    def _uncertain(self, text: str) -> int:
        """How many characters at the end may belong to a stop string, or be space at the end."""
        keep = len(text) - len(text.rstrip()) if self._trim else 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(text)), keep, -1):
                if text.endswith(stop[:size]):
                    # Space in front of it goes with it: the reply may end there.
                    cut = text[: len(text) - size]
                    keep = len(text) - len(cut.rstrip() if self._trim else cut)
                    break
        return keep


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """The bytes of a token's text, also where they are no whole characters."""
    text = tokenizer.decode([token])
    if "\ufffd" not in text:
        return text.encode()
    written = tokenizer.convert_ids_to_tokens(token)
    if single := re.fullmatch(r"<0x([0-9A-F]{2})>", written):  # as SentencePiece writes a byte
        return bytes.fromhex(single[1])
    known = _written_bytes()
    return bytes(known[c] for c in written) if set(written) <= set(known) else text.encode()


@cache
def _written_bytes() -> dict[str, int]:
    """The characters that byte-level BPE writes bytes as: those that print are themselves."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}
