"""Tokens of a reply to text, piece by piece: whole characters, and nothing of a stop string.

Knows a tokenizer, no model.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        self.stopped = False

    def add(self, token: int) -> str:
        """Take the next token; return the text that is certain now, which may be none."""
        self._ids.append(token)
        return self._certain(self._decoded(final=False))

    def end(self) -> str:
        """The rest of the text, when no token follows."""
        if self.stopped:
            return ""
        text = self._certain(self._decoded(final=True), final=True)
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
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        found = [at for at in (text.find(s) for s in self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            text = text[: min(found)]
            return text.rstrip() if self._trim else text
        keep = 0 if final else self._uncertain(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

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
