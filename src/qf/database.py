"""One SQLite file in a directory, for many readers and one writer: format, lock, plain faults.

It opens, reads and changes in whole transactions, so that a crash at any moment leaves the last
finished change. It knows nothing of facts beyond the tables' definition.

    DIRECTORY/facts.sqlite   meta (binding, revision), facts (id, record), tensors (rows)
    DIRECTORY/writer.lock    locked while somebody may write; holds the number of that process

Every operation opens the file anew. So threads share nothing, a file that was moved or replaced
is noticed, and a reader sees what other processes wrote. A file that was there and is gone is a
fault, for readers too: to read it as empty would deny what was acknowledged.
"""

from __future__ import annotations

import errno
import io
import os
import secrets
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from qf.errors import MemoryFault

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

APPLICATION_ID = 0x71664D65  # "qfMe": marks an SQLite file as one of ours
BUSY_SECONDS = 30.0  # how long a commit waits for a reader, or a reader for a commit

# Step i, applied in one transaction, takes a file from format i to format i + 1. Readers cannot
# upgrade, so a new step must leave the reads in memory.py working on a file without it.
SCHEMA: list[tuple[str, ...]] = [
    (
        "PRAGMA auto_vacuum = FULL",  # forgetting gives room back; first, or it has no effect
        f"PRAGMA application_id = {APPLICATION_ID}",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL)",
        "CREATE TABLE facts"
        " (position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, record TEXT NOT NULL)",
        "CREATE TABLE tensors"
        " (position INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, content BLOB NOT NULL)",
        "INSERT INTO meta VALUES ('revision', 0)",
    ),
    ("SELECT 1",),  # a record names rewordings, which readers of format 1 do not understand
    ("SELECT 1",),  # a record says whether it is consolidated, and tensors hold addresses
    ("SELECT 1",),  # tensors hold the outputs that a gated fact gives
    ("SELECT 1",),  # a record names the picture that was shown
    ("SELECT 1",),  # the binding says what lies below the taught layer
]

_SQLITE_KINDS = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "permission",
    sqlite3.SQLITE_CANTOPEN: "permission",
    sqlite3.SQLITE_PERM: "permission",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_ERROR: "damaged",  # a table or column that is missing
}
_SYSTEM_KINDS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
    errno.ENOTDIR: "path",
    errno.EEXIST: "path",
}


class Database:
    """The file of one memory. Every fault of SQLite or the file system becomes a `MemoryFault`.

    The writer's lock is taken by `lock()` or the first change, and given back by `close()` or by
    the end of the process, however that comes. Reading needs no lock.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "facts.sqlite"
        self._lock: io.FileIO | None = None
        self._found = False

    def lock(self) -> bool:
        """Become the one writer, at once or with a MemoryFault; say whether that is new."""
        path = self.directory / "writer.lock"
        with self._faults():
            self._there()
            if self._lock is not None and _same(self._lock, path):
                return False
            self.close()  # a file that is not the one in its place keeps nobody out
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked(path)
        return True

    def close(self) -> None:
        """Give back the writer's lock, if held."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view of the file; of empty tables where there is no file yet."""
        with self._faults(), closing(self._view()) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction under the writer's lock, undone unless its end is reached."""
        self.lock()
        with self._faults(), closing(self._connect("rwc")) as connection:
            connection.execute("PRAGMA synchronous = EXTRA")  # FULL, and the journal's removal
            connection.execute("PRAGMA secure_delete = ON")  # forgotten means overwritten
            _upgrade(connection, self._format(connection))
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            # A new file starts at random, so that one recreated in its place is noticed as well.
            number = (revision(connection) or secrets.randbits(40)) + 1
            connection.execute("UPDATE meta SET value = ? WHERE key = 'revision'", (number,))
            connection.execute("COMMIT")
            self._found = True

    def damaged(self, cause: object) -> MemoryFault:
        """Return the fault of a file whose content is not what was written."""
        return self._fault("damaged", cause)

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.file.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_SECONDS)

    def _there(self) -> bool:
        """Whether there is a file. Raises MemoryFault where there was one, and is none now."""
        there = self.file.exists()
        if self._found and not there:
            raise self._fault("gone")
        self._found = there
        return there

    def _view(self) -> sqlite3.Connection:
        if self.directory.exists() and not self.directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a directory")
        if self._there():
            # Not mode=ro: whoever comes first after a crash undoes what was left half done.
            connection = self._connect("rw")
            try:
                connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")
                if self._format(connection):
                    return connection
            except BaseException:
                connection.close()
                raise
            connection.close()
        connection = sqlite3.connect(":memory:", isolation_level=None)
        _upgrade(connection, 0)
        return connection

    def _format(self, connection: sqlite3.Connection) -> int:
        """Return the format of an opened file, 0 for an empty one; refuse foreign and newer."""
        pages = _number(connection, "PRAGMA page_count")
        if self.file.stat().st_size % _number(connection, "PRAGMA page_size"):
            raise self.damaged("cut off")  # SQLite itself lets the last page be incomplete
        if pages == 0:
            return 0
        if _number(connection, "PRAGMA application_id") != APPLICATION_ID:
            raise self._fault("foreign")
        version = _number(connection, "PRAGMA user_version")
        if version > len(SCHEMA):
            raise self._fault("newer", version)
        return version

    def _locked(self, path: Path) -> io.FileIO:
        """Lock the file, which the end of the process undoes, and write our number into it."""
        file = io.FileIO(path, "a+")
        try:
            _lock(file)
            file.truncate(0)
            file.write(b"%d\n" % os.getpid())
        except BlockingIOError:
            file.seek(0)
            owner = file.read(20).decode("ascii", "replace").strip()
            file.close()
            raise self._fault("used", owner) from None
        except BaseException:
            file.close()
            raise
        return file

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # Without a code: text that is not UTF-8.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            raise self._fault(_SQLITE_KINDS.get(code, "other"), error) from error
        except OSError as error:
            kind = _SYSTEM_KINDS.get(error.errno or 0, "other")
            raise self._fault(kind, error.strerror) from error

    def _fault(self, kind: str, cause: object = None) -> MemoryFault:
        where, file, elsewhere = self.directory, self.file, "choose another with --memory"
        sentence = {
            "full": f"The disk of the memory {where} is full, and nothing was changed; make room "
            f"or {elsewhere}.",
            "permission": f"The memory {where} cannot be opened or changed ({cause}); allow this "
            f"user to, or {elsewhere}.",
            "busy": f"The memory {where} is busy in another program; try again or {elsewhere}.",
            "used": f"The memory {where} is in use by process {cause or 'unknown'}; wait until it "
            f"is done or {elsewhere}.",
            "damaged": f"The memory file {file} is damaged ({cause}) and was left untouched; "
            f"restore it from a copy or {elsewhere}.",
            "gone": f"The memory file {file} was there and is gone; put it back, or begin again "
            "without it.",
            "foreign": f"The file {file} is not a memory of qf and was left untouched; "
            f"{elsewhere}.",
            "newer": f"The memory {where} has format {cause}, and this qf knows formats up to "
            f"{len(SCHEMA)}; upgrade qf or {elsewhere}.",
            "path": f"The memory {where} is not a directory; {elsewhere}.",
            "other": f"The memory {where} could not be used ({cause}), and nothing was changed; "
            f"check its disk or {elsewhere}.",
        }[kind]
        return MemoryFault(sentence)


def revision(connection: sqlite3.Connection) -> int:
    """Return the number that every change replaces."""
    return _number(connection, "SELECT value FROM meta WHERE key = 'revision'")


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Apply the steps after `version`, each in a transaction of its own."""
    for number, step in enumerate(SCHEMA[version:], version + 1):
        connection.execute("BEGIN")
        for statement in (*step, f"PRAGMA user_version = {number}", "COMMIT"):
            connection.execute(statement)


def _same(file: io.FileIO, path: Path) -> bool:
    """Whether an open file is the one at this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: io.FileIO) -> None:
    """Lock a file for this opening alone, at once or with BlockingIOError."""
    if sys.platform == "win32":
        file.seek(1 << 30)  # past the text, which Windows would make unreadable
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
