"""API keys: which exist, in which spaces they count, and what they allow there.

A key is 256 random bits, of which the file keeps the SHA-256; a slow hash would protect a password,
which can be guessed. The file is replaced as a whole and read again when it has changed. Where it
is or was, requests need a key: an empty file lets nobody in, and neither does one that is gone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from qf.errors import QFError
from qf.serve.spaces import BASE, NAME, SHARED

SCOPES = ("chat", "teach", "admin")
FILE = "keys.json"


@dataclass(frozen=True)
class Caller:
    """Who asks: `spaces` and `scopes` of a key. `admin` may do everything in every space."""

    id: str
    name: str
    spaces: tuple[str, ...]
    scopes: tuple[str, ...]

    def may(self, scope: str, space: str) -> bool:
        """Whether this is allowed; all may ask the base model and the shared space."""
        if "admin" in self.scopes:
            return True
        mine = space in self.spaces or (scope == "chat" and space in (BASE, SHARED))
        return mine and scope in self.scopes

    def scopes_in(self, space: str) -> list[str]:
        """All that is allowed in a space."""
        return [scope for scope in SCOPES if self.may(scope, space)]


LOCAL = Caller("local", "local user", (), ("admin",))
"""Whoever asks a server without keys, which listens to its own machine alone."""


@dataclass(frozen=True)
class Key:
    """What is kept of a key."""

    id: str
    name: str
    hash: str
    spaces: tuple[str, ...]
    scopes: tuple[str, ...]
    created: str


class Keys:
    """The keys of one server, in one file; `needed` where there is to be one from the beginning."""

    def __init__(self, directory: Path, *, needed: bool = False) -> None:
        self._file = directory / FILE
        self._needed = needed
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def all(self) -> list[Key]:
        """All keys, the oldest first. Raises QFError for a file that cannot be read, or is gone."""
        try:
            stat = self._file.stat()
            self._needed = True
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen != self._seen:
                found = [_key(fields) for fields in json.loads(self._file.read_text("utf-8"))]
                self._keys, self._seen = {key.id: key for key in found}, seen
        except FileNotFoundError as error:
            self._keys, self._seen = {}, None
            if self._needed:
                raise QFError(
                    f"The keys in {self._file} are gone: bring the file back, or add a key with"
                    " `qf keys add`."
                ) from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise QFError(
                f"The keys in {self._file} cannot be read ({error}): restore the file, or delete it"
                " and add keys with `qf keys add`."
            ) from error
        return list(self._keys.values())

    def needed(self) -> bool:
        """Whether requests need a key, now and from now on. Raises QFError as `all` does."""
        self.all()
        return self._needed

    def add(self, name: str, spaces: Sequence[str], scopes: Sequence[str]) -> tuple[Key, str]:
        """Make a key; return what is kept of it, and its text, which is nowhere else."""
        for space in spaces:
            if space == BASE or not NAME.fullmatch(space):
                raise QFError(
                    f"{space!r} is no name of a space: use up to 63 of a-z, 0-9, _ and -."
                )
        if wrong := [s for s in scopes if s not in SCOPES]:
            raise QFError(f"The scope {wrong[0]!r} is unknown: choose from {', '.join(SCOPES)}.")
        if not spaces and "admin" not in scopes:
            raise QFError("A key without a space may do nothing: name one with --space.")
        number, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        text = f"qf-{number}-{secret}"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        key = Key(number, name, _hash(text), tuple(spaces), tuple(scopes), now)
        self._write([*self.all(), key])
        return key, text

    def revoke(self, key_id: str) -> Key:
        """Let a key count no more, at once. Raises QFError where there is none of this id."""
        known = {key.id: key for key in self.all()}
        if key_id not in known:
            raise QFError(f"There is no key {key_id!r}: list them with `qf keys list`.")
        gone = known.pop(key_id)
        self._write(list(known.values()))
        return gone

    def caller(self, text: str) -> Caller | None:
        """Whose key this is, found in a time that tells nothing of it."""
        given = _hash(text)
        found: Key | None = None
        for key in self.all():
            if hmac.compare_digest(key.hash, given):
                found = key
        if found is None:
            return None
        return Caller(found.id, found.name, found.spaces, found.scopes)

    def _write(self, keys: Sequence[Key]) -> None:
        """Replace the file by one that is whole and on the disk."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._file.parent, prefix=".keys-")  # mode 600
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump([asdict(key) for key in keys], file, indent=1)
                    file.flush()
                    os.fsync(file.fileno())
                Path(name).replace(self._file)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise QFError(
                f"The keys cannot be written to {self._file} ({error.strerror}): allow this"
                " user to, or choose another directory with --memory."
            ) from error


def _key(fields: dict[str, object]) -> Key:
    lists = {name: tuple(map(str, fields[name])) for name in ("spaces", "scopes")}  # type: ignore[call-overload]
    return Key(**{**fields, **lists})  # type: ignore[arg-type]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
