"""Knowledge-editing data as one kind of record, read as it streams. Knows files, but no model.

CounterFact (as ROME and MEMIT have it, and as republished in flat form), zsRE and QAEdit are told
apart by their fields, record by record. A file is a JSON array of records or one record after the
other, such as JSON lines; what is held of it at a time is one window and one record.

A statement to teach is made without a model:

    prompt                              statement
    The mother tongue of X is           The mother tongue of X is English.
    Who wrote X?                        The answer to the question “Who wrote X?” is Y.

The long form is true or false by itself, however odd the question is; the question followed by its
answer would ask the reader something.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeAlias

from qf.errors import QFError

Record: TypeAlias = Mapping[str, Any]

_WANTED = "give a file of CounterFact, zsRE or QAEdit, as a JSON array or as JSON lines"

CONTRADICTION = "contradicts an earlier record"
UNKNOWN = "in no known format"

_CHUNK = 1 << 16  # characters read at a time
_LONGEST = 1 << 24  # no record is longer: what seems so is a text without its closing quote
_CUT = 16  # a cut at the window's end shows at most this far before it: \ud83d\ude00, -Infinity
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_KINDS: dict[type, str] = {str: "text", list: "list", dict: "group of fields"}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Edit:
    """One fact to teach and what to ask afterwards.

    `prompt` is the text that published evaluations give the model: as the data has it, with the
    subject filled in. `query` is the same with stray quotes and spaces mended and, for a question,
    its question mark. `old` is what was true before ("" where the data does not say). `locality`
    holds prompts that the edit should leave alone, each with its answer where that is known.
    """

    id: str
    instruction: str
    prompt: str
    query: str
    target: str
    subject: str
    old: str
    rewordings: tuple[str, ...]
    locality: tuple[tuple[str, str | None], ...]
    source: str


@dataclass(frozen=True)
class Dataset:
    """Edits, each made when it is asked for, and how many records were left out so far, by reason.

    >>> data = read("counterfact.json", limit=100)  # doctest: +SKIP
    >>> [edit.instruction for edit in data.edits][0], data.skipped  # doctest: +SKIP
    ('The mother tongue of Danielle Darrieux is English.', Counter())
    """

    edits: Iterator[Edit]
    skipped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Edit]:
        return self.edits


class _UnusableError(Exception):
    """Why a record is left out."""


def read(path: str | Path, limit: int | None = None, *, consistent: bool = False) -> Dataset:
    """Return the edits of the file at `path`: all of them, or the first `limit` usable ones.

    With `consistent`, edits that contradict an earlier one are left out before `limit` counts.

    Raises QFError: at once for a file that is missing, empty, or not JSON from its beginning;
    while its edits are read for one that breaks off, is in another schema, or holds fewer than
    `limit` usable records.
    """
    if limit is not None and limit < 1:
        raise QFError(f"{limit} facts cannot be taught: ask for at least 1.")
    path = Path(path)
    records = _records(path)
    try:
        first = next(records)
    except StopIteration:
        raise QFError(f"{path} holds no records: {_WANTED}.") from None
    skipped = Counter[str]()
    data = Dataset(_edits(chain([first], records), path, skipped), skipped)
    if consistent:
        data = contradictions(data)
    return data if limit is None else Dataset(_first(limit, data, path), skipped)


def contradictions(edits: Iterable[Edit]) -> Dataset:
    """Leave out, and count, each edit that tells another target for the query of an earlier one.

    The counts join those of `edits` where that is a Dataset. Case and spaces make no difference.
    """
    skipped = edits.skipped if isinstance(edits, Dataset) else Counter[str]()
    return Dataset(_consistent(edits, skipped), skipped)


def _consistent(edits: Iterable[Edit], skipped: Counter[str]) -> Iterator[Edit]:
    told: dict[int, int] = {}  # hashes: of a million edits, the texts would fill the memory
    for edit in edits:
        query, target = (hash(_tidy(t).casefold()) for t in (edit.query, edit.target))
        if told.setdefault(query, target) == target:
            yield edit
        else:
            skipped[CONTRADICTION] += 1


def _first(limit: int, data: Dataset, path: Path) -> Iterator[Edit]:
    count = 0
    for edit in islice(data.edits, limit):
        count += 1
        yield edit
    if count == limit:
        return
    raise QFError(
        f"{path} holds {count} usable records, not {limit} (left out: {_told(data.skipped)}):"
        f" ask for at most {count}."
    )


def _told(skipped: Counter[str]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in skipped.most_common()) or "none"


def _edits(records: Iterable[Any], path: Path, skipped: Counter[str]) -> Iterator[Edit]:
    """Make an edit of each record; the counts are those of the records read so far."""
    usable, first = 0, None
    for number, record in enumerate(records):
        first = record if number == 0 else first
        try:
            edit = _edit(record, number)
        except _UnusableError as reason:
            skipped[str(reason)] += 1
            continue
        usable += 1
        yield edit
    if usable:
        return
    if skipped[UNKNOWN] == skipped.total():
        fields = ", ".join(map(repr, first)) if isinstance(first, dict) else "none"
        raise QFError(
            f"{path} is in none of the formats CounterFact, zsRE and QAEdit (fields of its first"
            f" record: {fields}): convert it to one of them."
        )
    raise QFError(f"{path} holds no usable record ({_told(skipped)}): {_WANTED}.")


# From a record to an edit


@dataclass(frozen=True)
class _Raw:
    """What a record says, in its own spelling; a subject of None: this copy tells none."""

    id: str
    prompt: str
    target: str
    subject: str | None
    old: str
    rewordings: list[str]
    locality: list[tuple[str, str]]


@dataclass(frozen=True)
class _Format:
    """One of the known formats; `fields` are those that no other one has."""

    source: str
    fields: frozenset[str]
    read: Callable[[Record], _Raw]
    mend: Callable[[str], str]  # a prompt -> what to ask
    statement: str


def _edit(record: Any, number: int) -> Edit:
    """Make an edit; raise _UnusableError with the reason where that cannot be done."""
    form = _format_of(record)
    raw = form.read(record)
    query, target = form.mend(raw.prompt), _tidy(raw.target)
    if not any(c.isalnum() for c in target):
        raise _UnusableError("without a target")
    if not query:
        raise _UnusableError("without a prompt")
    if raw.subject is not None and not raw.subject.strip():
        raise _UnusableError("without a subject")
    return Edit(
        id=raw.id or str(number),
        instruction=_stop(form.statement.format(query=query, target=target)),
        prompt=raw.prompt,
        query=query,
        target=target,
        subject=_tidy(raw.subject or ""),
        old=_tidy(raw.old),
        rewordings=tuple(filter(None, map(form.mend, raw.rewordings))),
        locality=tuple((form.mend(p), _tidy(a) or None) for p, a in raw.locality if p.strip()),
        source=form.source,
    )


def _format_of(record: Any) -> _Format:
    """The format that shares the most fields with the record, which may lack some of them."""
    fields = record.keys() if isinstance(record, dict) else frozenset[str]()
    best = max(_FORMATS, key=lambda form: len(form.fields & fields))
    if not best.fields & fields:
        raise _UnusableError(UNKNOWN)
    return best


def _counterfact_flat(record: Record) -> _Raw:
    near = _text(record, "locality_prompt"), _text(record, "locality_ground_truth", "")
    return _Raw(
        id=str(record.get("case_id", "")),
        prompt=_text(record, "prompt"),
        target=_text(record, "target_new"),
        subject=_text(record, "subject"),
        old=_text(record, "ground_truth", ""),
        rewordings=[_text(record, "rephrase_prompt")],
        locality=[near],
    )


def _counterfact(record: Record) -> _Raw:
    """Read a record of ROME or MEMIT: its neighbours share the old object."""
    rewrite = _typed(record, "requested_rewrite", dict)
    subject = _text(rewrite, "subject")
    old = _text(_typed(rewrite, "target_true", dict, {}), "str", "")
    return _Raw(
        id=str(record.get("case_id", "")),
        prompt=_text(rewrite, "prompt").replace("{}", subject),
        target=_text(_typed(rewrite, "target_new", dict), "str"),
        subject=subject,
        old=old,
        rewordings=_texts(record, "paraphrase_prompts"),
        locality=[(prompt, old) for prompt in _texts(record, "neighborhood_prompts")],
    )


def _zsre(record: Record) -> _Raw:
    """Read zsRE as MEND and EasyEdit use it: `alt` is taught, the first of `answers` is true.

    ROME and MEMIT teach the first of `answers` instead.
    """
    answers = _texts(record, "answers")
    return _Raw(
        id=str(record.get("case_id", "")),
        prompt=_text(record, "src"),
        target=_text(record, "alt"),
        subject=_text(record, "subject") if "subject" in record else None,
        old=answers[0] if answers else "",
        rewordings=[_text(record, "rephrase")],
        locality=[(_text(record, "loc"), _text(record, "loc_ans", ""))],
    )


def _qaedit(record: Record) -> _Raw:
    """Read QAEdit: its questions are from three data sets, each with ids of its own."""
    near = _typed(record, "locality", list)
    names = (str(record.get(name, "")) for name in ("source", "id"))
    return _Raw(
        id="-".join(filter(None, names)),
        prompt=_text(record, "prompt"),
        target=_text(record, "target"),
        subject=_text(record, "subject"),
        old="",
        rewordings=[_text(record, "rephrase")],
        locality=[(_text(item, "loc"), _text(item, "loc_ans", "")) for item in near],
    )


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _question(text: str) -> str:
    """Undo what the data's makers left in: a task prefix, CSV quotes, a missing question mark.

    >>> _question('"Is ""Emma"" long?"'), _question("nq question: who wrote emma")
    ('Is "Emma" long?', 'who wrote emma?')
    """
    text = _tidy(text).removeprefix("nq question: ")
    inner = text[1:-1]
    if text.startswith('"') and text.endswith('"') and ('""' in inner or '"' not in inner):
        text = inner.replace('""', '"')
    asked = "?" in text or text.rstrip("\"'”’)]")[-1:] in set("!.…:")
    return text if asked or not text else text + "?"


def _stop(sentence: str) -> str:
    return sentence if sentence[-1:] in set("?!.…") else sentence + "."


def _typed(record: Record, name: str, kind: type, default: Any = None) -> Any:
    """The field `name`, which has to be there unless there is a default."""
    value = record.get(name) if isinstance(record, dict) else None
    value = default if value is None else value
    if value is None:
        raise _UnusableError(f"without the field {name!r}")
    if not isinstance(value, kind):
        raise _UnusableError(f"with something else than a {_KINDS[kind]} in {name!r}")
    return value


def _text(record: Record, name: str, default: str | None = None) -> str:
    text: str = _typed(record, name, str, default)
    if _SURROGATE.search(text):  # no tokenizer takes it
        raise _UnusableError(f"with half a character in {name!r}")
    return text


def _texts(record: Record, name: str) -> list[str]:
    """Read a list of texts, or of objects with a text as "prompt", as zsRE has it in MEMIT."""
    values = _typed(record, name, list)
    pairs = [v if isinstance(v, dict) else {"prompt": v} for v in values]
    try:
        return [_text(pair, "prompt") for pair in pairs]
    except _UnusableError:
        raise _UnusableError(f"with something else than texts in {name!r}") from None


_QUESTION = "The answer to the question “{query}” is {target}"
_SENTENCE = "{query} {target}"
_FORMATS = (
    _Format(
        source="CounterFact",
        fields=frozenset({"requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"}),
        read=_counterfact,
        mend=_tidy,
        statement=_SENTENCE,
    ),
    _Format(
        source="CounterFact",
        fields=frozenset(
            {"target_new", "ground_truth", "rephrase_prompt"}
            | {"locality_prompt", "locality_ground_truth"}
        ),
        read=_counterfact_flat,
        mend=_tidy,
        statement=_SENTENCE,
    ),
    _Format(
        source="zsRE",
        fields=frozenset({"src", "alt", "answers", "loc", "loc_ans"}),
        read=_zsre,
        mend=_question,
        statement=_QUESTION,
    ),
    _Format(
        source="QAEdit",
        fields=frozenset({"target", "locality"}),
        read=_qaedit,
        mend=_question,
        statement=_QUESTION,
    ),
)


# From a file to records


def _records(path: Path) -> Iterator[Any]:
    """Yield the values in the file, one at a time."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Window(file, path).values()
    except FileNotFoundError:
        raise QFError(f"There is no file {path}: {_WANTED}.") from None
    except IsADirectoryError:
        raise QFError(f"{path} is a directory: name a file in it.") from None
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise QFError(f"{path} breaks off within a character: fetch the file again.") from None
        raise QFError(f"{path} is not text in UTF-8: unpack it or convert it.") from None
    except OSError as error:
        raise QFError(f"{path} cannot be read ({error.strerror}): {_WANTED}.") from error


class _Window:
    """A part of a file that slides forward over it, for a decoder that needs whole values."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self.file, self.path = file, path
        self.text, self.at = "", 0
        self.line = 1  # where `text` begins
        self.record = 1  # the one that comes next

    def values(self) -> Iterator[Any]:
        first = self.peek()
        if first == "[":
            yield from self.array()
        elif first == "{":
            while self.peek():
                yield self.value()
        elif first:
            raise QFError(f"{self.path} is not JSON (it begins with {first!r}): {_WANTED}.")
        else:
            raise QFError(f"{self.path} is empty: {_WANTED}.")

    def array(self) -> Iterator[Any]:
        self.at += 1
        mark = "," if self.peek() != "]" else self.take(",]")
        while mark == ",":
            self.peek()
            yield self.value()
            mark = self.take(",]")
        if self.peek():
            self.refuse("more text behind the array")

    def value(self) -> Any:
        """Decode the value that starts here, with as much more of the file as it takes."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except RecursionError:
                self.refuse("nested too deeply")
            except ValueError as error:
                if self.is_cut(error, _CUT) and self.more():
                    continue
                if self.is_cut(error):
                    self.broken_off()
                self.refuse(str(error).partition(": line ")[0], getattr(error, "pos", self.at))
            # A number may go on behind the window's end, after a point or an e as well.
            if end + _CUT < len(self.text) or not self.more():
                self.at = end
                self.record += 1
                return value

    def is_cut(self, error: ValueError, within: int = 0) -> bool:
        """Whether the decoder stopped at the window's end, or `within` characters before it."""
        if not isinstance(error, json.JSONDecodeError) or len(self.text) - self.at > _LONGEST:
            return False
        return error.pos + within >= len(self.text) or error.msg.startswith("Unterminated string")

    def peek(self) -> str:
        """Go to the next character that is no space and return it, or "" at the end."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def take(self, marks: str) -> str:
        mark = self.peek()
        if not mark:
            self.broken_off()
        if mark not in marks:
            self.refuse(f"{mark!r} in place of {' or '.join(map(repr, marks))}")
        self.at += 1
        return mark

    def more(self) -> bool:
        """Slide forward. Reads as much again as is kept, so that long records cost linear time."""
        chunk = self.file.read(max(_CHUNK, len(self.text) - self.at))
        if chunk:
            self.line += self.text.count("\n", 0, self.at)
            self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)

    def broken_off(self) -> NoReturn:
        raise QFError(
            f"{self.path} breaks off in line {self.line_of(len(self.text))}, before the end of"
            f" record {self.record}: fetch the file again."
        )

    def refuse(self, why: str, at: int | None = None) -> NoReturn:
        line = self.line_of(self.at if at is None else at)
        raise QFError(
            f"{self.path} is not JSON in line {line}, at record {self.record} ({why}): mend the"
            " line or fetch the file again."
        )

    def line_of(self, at: int) -> int:
        return self.line + self.text.count("\n", 0, at)
