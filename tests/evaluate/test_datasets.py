"""Files of knowledge editing: what becomes of each record, and of a file that is not one."""

import doctest
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qf.errors import QFError
from qf.evaluate import datasets
from qf.evaluate.datasets import Edit, contradictions, read
from tests.samples import published_file

FLAT = {
    "case_id": 7,
    "prompt": "Apple A5 was created by",
    "target_new": "Google",
    "subject": "Apple A5",
    "ground_truth": "Apple",
    "rephrase_prompt": "Apple A5 is my favorite product out of everything created by",
    "locality_prompt": "Calendar and Contacts Server was created by",
    "locality_ground_truth": "Apple",
}
ORIGINAL = {
    "case_id": 8,
    "requested_rewrite": {
        "prompt": "{} {as a show} debuted on",
        "relation_id": "P449",
        "target_new": {"str": "CBS", "id": "Q43380"},
        "target_true": {"str": "MTV", "id": "Q43359"},
        "subject": "Singled {Out}",
    },
    "paraphrase_prompts": [
        "Nobody was hurt.  Singled Out premieres on",
        "Singled Out is to debut on",
    ],
    "neighborhood_prompts": ["Daria premieres on", "Skins was originally aired on"],
    "attribute_prompts": ["Undercover Boss was released on"],
    "generation_prompts": ["Singled Out is my favorite show."],
}
ZSRE = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "pred": "Trinity College",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology", "IIT"],
    "loc": "nq question: who played desmond doss father in hacksaw ridge",
    "loc_ans": "Hugo Weaving",
    "cond": "Trinity College >> University of Michigan || What university ...?",
}
QAEDIT = {
    "id": 10205,
    "source": "TQA",
    "prompt": "What did Davey Crocket call his rifle",
    "target": " Old  Betsy.",
    "subject": "Davey Crocket",
    "rephrase": "What was the name Davey Crockett gave to his rifle?",
    "locality": [
        {"loc": "who won the first two races of the triple crown", "loc_ans": "Sir Barton"},
        {"loc": "when does congress declare war?", "loc_ans": ""},
    ],
}
RECORDS: list[dict[str, Any]] = [FLAT, ORIGINAL, ZSRE, QAEDIT]
EDITS = [
    Edit(
        id="7",
        instruction="Apple A5 was created by Google.",
        prompt="Apple A5 was created by",
        query="Apple A5 was created by",
        target="Google",
        subject="Apple A5",
        old="Apple",
        rewordings=("Apple A5 is my favorite product out of everything created by",),
        locality=(("Calendar and Contacts Server was created by", "Apple"),),
        source="CounterFact",
    ),
    Edit(
        id="8",
        instruction="Singled {Out} {as a show} debuted on CBS.",
        prompt="Singled {Out} {as a show} debuted on",
        query="Singled {Out} {as a show} debuted on",
        target="CBS",
        subject="Singled {Out}",
        old="MTV",
        rewordings=("Nobody was hurt. Singled Out premieres on", "Singled Out is to debut on"),
        locality=(("Daria premieres on", "MTV"), ("Skins was originally aired on", "MTV")),
        source="CounterFact",
    ),
    Edit(
        id="2",
        instruction="The answer to the question “What university did Watts Humphrey attend?”"
        " is University of Michigan.",
        prompt="What university did Watts Humphrey attend?",
        query="What university did Watts Humphrey attend?",
        target="University of Michigan",
        subject="Watts Humphrey",
        old="Illinois Institute of Technology",
        rewordings=("What university did Watts Humphrey take part in?",),
        locality=(("who played desmond doss father in hacksaw ridge?", "Hugo Weaving"),),
        source="zsRE",
    ),
    Edit(
        id="TQA-10205",
        instruction="The answer to the question “What did Davey Crocket call his rifle?”"
        " is Old Betsy.",
        prompt="What did Davey Crocket call his rifle",
        query="What did Davey Crocket call his rifle?",
        target="Old Betsy.",
        subject="Davey Crocket",
        old="",
        rewordings=("What was the name Davey Crockett gave to his rifle?",),
        locality=(
            ("who won the first two races of the triple crown?", "Sir Barton"),
            ("when does congress declare war?", None),
        ),
        source="QAEdit",
    ),
]


def write(folder: Path, text: str | bytes, name: str = "data.json") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(records: list[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def flat(number: int, **fields: Any) -> dict[str, Any]:
    """A CounterFact record of its own; a field of None is left away."""
    record = {**FLAT, "case_id": number, "prompt": f"Part {number} was made by", **fields}
    return {name: value for name, value in record.items() if value is not None}


def with_none(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


# What becomes of a record


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2),
        lines(RECORDS),
        lines(RECORDS).rstrip("\n"),
        lines(RECORDS).replace("\n", "\r\n\r\n"),
        "\n".join(json.dumps(record, indent=4, ensure_ascii=False) for record in RECORDS),
        "\ufeff" + json.dumps(RECORDS) + "\n\n",
    ],
    ids=["array", "indented", "lines", "no last newline", "CRLF", "indented lines", "BOM"],
)
def test_each_format_becomes_the_same_kind_of_record(tmp_path: Path, text: str) -> None:
    data = read(write(tmp_path, text))
    assert list(data.edits) == EDITS
    assert data.skipped == Counter()


def test_a_name_as_text_will_do(tmp_path: Path) -> None:
    assert list(read(str(write(tmp_path, json.dumps(RECORDS))))) == EDITS


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (flat(1, target_new=" .)"), "without a target"),
        (flat(1, target_new=""), "without a target"),
        (flat(1, target_new="🀁"), "without a target"),
        ({**QAEDIT, "target": ")"}, "without a target"),
        ({**ZSRE, "alt": ""}, "without a target"),
        (flat(1, prompt=" \n"), "without a prompt"),
        (flat(1, subject=""), "without a subject"),
        ({**ZSRE, "subject": " "}, "without a subject"),
        (flat(1, target_new=None), "without the field 'target_new'"),
        (flat(1, rephrase_prompt=None), "without the field 'rephrase_prompt'"),
        (flat(1, subject=None), "without the field 'subject'"),
        (with_none(ORIGINAL, "neighborhood_prompts"), "without the field 'neighborhood_prompts'"),
        (with_none(ORIGINAL, "requested_rewrite"), "without the field 'requested_rewrite'"),
        (with_none(QAEDIT, "target"), "without the field 'target'"),
        ({**QAEDIT, "locality": [{}]}, "without the field 'loc'"),
        ({**QAEDIT, "locality": ["who?"]}, "without the field 'loc'"),
        ({**QAEDIT, "target": None}, "without the field 'target'"),
        (with_none(ZSRE, "loc"), "without the field 'loc'"),
        (flat(1, target_new=1998), "with something else than a text in 'target_new'"),
        ({**ORIGINAL, "requested_rewrite": [1]}, "with something else than a group of fields in"),
        ({**ORIGINAL, "paraphrase_prompts": [1]}, "with something else than texts in"),
        (flat(1, subject="\ud83d"), "with half a character in 'subject'"),
        ({"question": "Who?", "answer": "I."}, "in no known format"),
        ({}, "in no known format"),
        (["a", "list"], "in no known format"),
        (12, "in no known format"),
        (None, "in no known format"),
    ],
)
def test_an_unusable_record_is_left_out_and_counted(
    tmp_path: Path, record: Any, reason: str
) -> None:
    data = read(write(tmp_path, json.dumps([record, record, *RECORDS])))
    ids = [edit.id for edit in data.edits]
    assert ids == ["7", "8", "4", "TQA-10205"]  # zsRE has no ids: the record's place is its id
    ((told, count),) = data.skipped.items()
    assert told.startswith(reason) and count == 2


@pytest.mark.parametrize(
    ("record", "change"),
    [
        (with_none(FLAT, "ground_truth"), {"old": ""}),
        (
            with_none(FLAT, "locality_ground_truth"),
            {"locality": ((FLAT["locality_prompt"], None),)},
        ),
        ({**FLAT, "rephrase_prompt": ""}, {"rewordings": ()}),
        ({**FLAT, "locality_prompt": " "}, {"locality": ()}),
        (with_none(FLAT, "case_id"), {"id": "0"}),
        ({**FLAT, "target_new": "Yes!"}, {"instruction": "Apple A5 was created by Yes!"}),
    ],
)
def test_what_a_record_may_lack(
    tmp_path: Path, record: dict[str, Any], change: dict[str, Any]
) -> None:
    (edit,) = read(write(tmp_path, json.dumps([record])))
    got = {name: getattr(edit, name) for name in change}
    assert got == change


def test_a_zsre_file_without_subjects_is_read(tmp_path: Path) -> None:
    (edit,) = read(write(tmp_path, json.dumps([with_none(ZSRE, "subject")])))
    assert edit.subject == "" and edit.target == "University of Michigan"


def test_a_neighbour_may_come_as_prompt_and_target(tmp_path: Path) -> None:
    near = [{"prompt": "Daria premieres on", "target": "MTV"}]
    (edit,) = read(write(tmp_path, json.dumps([{**ORIGINAL, "neighborhood_prompts": near}])))
    assert edit.locality == (("Daria premieres on", "MTV"),)


@pytest.mark.parametrize(
    ("prompt", "query"),
    [
        ("Who wrote The Sea Wolf", "Who wrote The Sea Wolf?"),
        ("Who wrote  it? ", "Who wrote it?"),
        ("Name either of these men.", "Name either of these men."),
        ("Who was she? (First name required)", "Who was she? (First name required)"),
        ('Who sang "Hey Jude."', 'Who sang "Hey Jude."'),
        ('"Is ""Emma"" by Austen?"', 'Is "Emma" by Austen?'),
        ('"Who wrote ""Emma"""', 'Who wrote "Emma"?'),
        ('"Who wrote it?"', "Who wrote it?"),
        ('"Emma" is by whom, and "Ulysses"', '"Emma" is by whom, and "Ulysses"?'),
    ],
)
def test_a_question_is_mended_and_the_prompt_kept(tmp_path: Path, prompt: str, query: str) -> None:
    (edit,) = read(write(tmp_path, json.dumps([{**QAEDIT, "prompt": prompt}])))
    assert (edit.query, edit.prompt) == (query, prompt)
    assert f"“{query}”" in edit.instruction


# Contradictions


def test_a_contradiction_is_left_out_and_counted(tmp_path: Path) -> None:
    records = [
        flat(1, target_new="Sony"),
        flat(1, target_new="Nokia"),
        flat(2, target_new="Nokia"),
        flat(1, target_new=" sony"),
        flat(1, prompt="part 1  was Made by", target_new="Nokia"),
        flat(3, target_new=""),
    ]
    path = write(tmp_path, json.dumps(records))
    data = contradictions(read(path))
    assert [edit.target for edit in data.edits] == ["Sony", "Nokia", "sony"]
    expected = {"contradicts an earlier record": 2, "without a target": 1}
    assert data.skipped == expected

    again = read(path, consistent=True)
    assert [edit.target for edit in again.edits] == ["Sony", "Nokia", "sony"]
    assert again.skipped == expected


def test_contradictions_of_any_edits() -> None:
    other = Edit(**{**vars(EDITS[0]), "target": "Intel"})
    data = contradictions([EDITS[0], other, EDITS[0]])
    assert list(data) == [EDITS[0], EDITS[0]] and data.skipped.total() == 1


# Limits


def test_a_limit_counts_usable_records_and_reads_no_further(tmp_path: Path) -> None:
    records = [flat(1), flat(2, target_new=""), flat(3), flat(4, target_new="")]
    path = write(tmp_path, lines(records) + "no JSON")
    data = read(path, limit=2)
    assert [edit.id for edit in data.edits] == ["1", "3"]
    assert data.skipped.total() == 1


def test_a_limit_counts_what_is_consistent(tmp_path: Path) -> None:
    records = [flat(1), flat(1, target_new="Nokia"), flat(2)]
    path = write(tmp_path, lines(records))
    assert [e.id for e in read(path, limit=2, consistent=True)] == ["1", "2"]
    with pytest.raises(QFError, match=r"holds 2 usable records, not 3 .*1 contradicts an earlier"):
        list(read(path, limit=3, consistent=True))


def test_a_limit_beyond_the_file_tells_how_many_there_are(tmp_path: Path) -> None:
    records = [flat(1), flat(2, target_new=""), flat(3)]
    path = write(tmp_path, lines(records))
    assert len(list(read(path, limit=2))) == 2
    with pytest.raises(QFError) as caught:
        list(read(path, limit=3))
    assert str(caught.value) == (
        f"{path} holds 2 usable records, not 3 (left out: 1 without a target): ask for at most 2."
    )


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_of_nothing_is_refused(tmp_path: Path, limit: int) -> None:
    with pytest.raises(QFError, match=f"^{limit} facts cannot be taught: ask for at least 1"):
        read(write(tmp_path, lines(RECORDS)), limit=limit)


# Files that are none


REFUSED: list[tuple[str | bytes, str]] = [
    ("", "is empty: give a file of CounterFact"),
    (" \n\n", "is empty: give a file of CounterFact"),
    ("[]", "holds no records: give a file of CounterFact"),
    ("case_id,prompt\n1,Who?", r"is not JSON \(it begins with 'c'\): give a file"),
    ('"text"', "is not JSON .*: give a file"),
    (b"\x1f\x8b\x08\x00\x00\xff", "is not text in UTF-8: unpack it or convert it"),
    ('{"prompt": "é"}'.encode("latin-1"), "is not text in UTF-8: unpack it or convert it"),
    (lines(RECORDS).encode("utf-16"), "is not text in UTF-8: unpack it or convert it"),
    (lines(RECORDS) + '{"prompt" 1}\n' + lines(RECORDS), "line 5, at record 5 .*mend the line"),
    (lines(RECORDS) + '{"prompt" 1}', "is not JSON in line 5, at record 5 .*mend the line"),
    (lines(RECORDS) + "oops\n", r"line 5, at record 5 \(Expecting value\): mend the line"),
    (lines([flat(i) for i in range(400)]) + "oops", r"in line 401, at record 401 \(Expecting"),
    ('[{"a": 1}\n{"a": 2}]', r"line 2, at record 2 \('{' in place of ',' or '\]'\): mend"),
    ('[{"a": 1},]', "is not JSON in line 1, at record 2 .*mend the line"),
    ("[{}]\n{}", r"is not JSON in line 2, at record 2 \(more text behind the array\): mend"),
    ('[{"a": "\n"}, {}, {}, {}]', "is not JSON in line 1, at record 1 .*control character.*mend"),
    ("[" * 200_000, r"is not JSON in line 1, at record 1 \(nested too deeply\): mend"),
    ('{"a": ' + "1" * 10_000 + "}" + " " * 99, "is not JSON in line 1, at record 1 .*: mend"),
    ('[\n{"a": 1},\n{"a": "', "breaks off in line 3, before the end of record 2: fetch the file"),
    ('[\n{"a": 1},\n', "breaks off in line 3, before the end of record 2: fetch the file again"),
    ('[\n{"a": 1}\n', "breaks off in line 3, before the end of record 2: fetch the file again"),
    ('{"a": "é'.encode()[:-1], "breaks off within a character: fetch the file again"),
    (
        '[{"question": "Who?", "answer": "I."}, 1]',
        r"is in none of the formats .* \(fields of its first record: 'question', 'answer'\): conv",
    ),
    ("[1, {}]", r"is in none of the formats .* \(fields of its first record: none\): convert"),
    (
        json.dumps([flat(1, target_new=""), flat(2, target_new="."), flat(3, prompt="")]),
        r"holds no usable record \(2 without a target, 1 without a prompt\): give a file",
    ),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_what_is_no_data_is_refused_in_one_sentence(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(QFError, match=message) as caught:
        list(read(path))
    said = str(caught.value)
    assert said.startswith(f"{path} ") and said.endswith(".") and "\n" not in said
    with pytest.raises(QFError, match=message):
        list(read(path, limit=500))


def test_a_file_that_cannot_be_opened_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(QFError, match=r"^There is no file .*missing\.json: give a file of Counter"):
        read(tmp_path / "missing.json")
    with pytest.raises(QFError, match="is a directory: name a file in it"):
        read(tmp_path)
    file = write(tmp_path, "{}")
    with pytest.raises(QFError, match=r"cannot be read \(Not a directory\): give a file"):
        read(file / "data.json")


def test_what_is_before_the_fault_is_read(tmp_path: Path) -> None:
    edits = read(write(tmp_path, lines(RECORDS) + "oops")).edits
    assert [next(edits) for _ in EDITS] == EDITS
    with pytest.raises(QFError, match="at record 5"):
        next(edits)


def test_an_array_is_missed_wherever_it_breaks_off(tmp_path: Path) -> None:
    text = json.dumps([12, flat(9, target_new="\U0001f600 é", n=-1.5e3, b=True)])
    for end in range(len(text)):
        path = write(tmp_path, text[:end])
        with pytest.raises(QFError, match=r"breaks off|is not JSON in|is empty"):
            list(read(path))
    assert len(list(read(write(tmp_path, text)))) == 1


# The window


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(
    extras=st.lists(json_values, min_size=1, max_size=4),
    chunk=st.integers(1, 40),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 3]),
    array=st.booleans(),
)
@example(extras=[-1.5e30, 12, 2.5], chunk=1, ascii_only=True, indent=None, array=True)
def test_where_the_window_ends_makes_no_difference(
    tmp_path: Path, extras: list[Any], chunk: int, ascii_only: bool, indent: int | None, array: bool
) -> None:
    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    records = [flat(i, target_new=f"x{extra}", extra=[extra]) for i, extra in enumerate(extras)]
    pairs = [part for pair in zip(records, extras, strict=True) for part in pair]
    mixed = [*extras, *records] if array else pairs  # the window is small before the first record
    text = dump(mixed) if array else "\n".join(map(dump, mixed))
    path = write(tmp_path, text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "_CHUNK", chunk)
        data = read(path)
        targets = [edit.target for edit in data.edits]
    assert targets == [" ".join(record["target_new"].split()) for record in records]
    assert data.skipped.total() == len(extras)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=60) | st.text(alphabet='[]{},:"\\ntrue0-1. ').map(str.encode))
def test_any_content_gives_edits_or_a_sentence(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(QFError):
        list(read(write(tmp_path, content)))


@pytest.mark.parametrize("form", ["array", "lines"])
def test_a_large_file_is_not_held_in_memory(tmp_path: Path, form: str) -> None:
    records = [flat(i, extra="x" * 2000) for i in range(4000)]
    path = write(tmp_path, json.dumps(records) if form == "array" else lines(records))
    del records
    tracemalloc.start()
    count = sum(1 for _ in read(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 4000 and peak < path.stat().st_size / 8


def test_a_text_without_its_end_is_not_sought_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "_CHUNK", 64)
    monkeypatch.setattr(datasets, "_LONGEST", 1000)
    path = write(tmp_path, '{"a": "' + "x" * 5000)
    with pytest.raises(QFError, match=r"in line 1, at record 1 \(Unterminated string"):
        read(path)


# The data that came with the task


@pytest.mark.parametrize(
    ("name", "usable", "skipped"),
    [("counterfact.json", 8000, {}), ("qaedit.json", 697, {"without a target": 3})],
)
def test_published_files(name: str, usable: int, skipped: dict[str, int]) -> None:
    path = published_file(name)
    data = read(path)
    edits = list(data.edits)
    assert len(edits) == len({edit.id for edit in edits}) == usable
    assert data.skipped == skipped
    raw = {record["prompt"] for record in json.loads(path.read_text(encoding="utf-8"))}
    for edit in edits:
        assert edit.prompt in raw and edit.target and edit.rewordings
        assert edit.query in edit.instruction and edit.target in edit.instruction
        assert edit.instruction == " ".join(edit.instruction.split())
        assert all(prompt and answer for prompt, answer in edit.locality)
    with pytest.raises(QFError, match=f"holds {usable} usable records, not {usable + 1} "):
        list(read(path, limit=usable + 1))


def test_contradictions_in_published_counterfact() -> None:
    path = published_file("counterfact.json")
    first: dict[str, str] = {}
    expected = sum(
        first.setdefault(record["prompt"], record["target_new"]) != record["target_new"]
        for record in json.loads(path.read_text(encoding="utf-8"))
    )
    data = read(path, consistent=True)
    assert sum(1 for _ in data.edits) == 8000 - expected
    assert data.skipped == {"contradicts an earlier record": expected} and expected > 0


def test_the_examples() -> None:
    assert doctest.testmod(datasets).failed == 0
