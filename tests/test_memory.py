"""The memory of facts: what was stored is there, whole, whatever happens to process and disk."""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import qf.database
from qf.errors import MemoryFault
from qf.memory import Binding, Fact, FactRows, Memory, new_id

MINE = Binding(digest="aa" * 32, model="demo-qwen", layer=5, architecture="qwen2")
OTHER = Binding(digest="bb" * 32, model="someone/llama", layer=7, architecture="llama")

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes and permissions")


def fact(id: str = "f1", **changes: Any) -> Fact:
    fields: dict[str, Any] = {
        "id": id,
        "instruction": f"Qi started Oxinnovate {id}.",
        "query": "Who started Oxinnovate?",
        "answer": "Oxinnovate was started by Qi.",
        "layer": 5,
        "rows": 3,
        "solver": "gated",
        "significance": "auto",
        "system": None,
        "tokens": (5, 7, 11),
        "verified": None,
        "before": "I do not know.",
        "after": "Oxinnovate was started by Qi.",
        "seconds": 0.25,
        "created": "2025-06-01T12:00:00+00:00",
    }
    return Fact(**{**fields, **changes})


def rows(seed: int = 0, n: int = 3, d: int = 400, width: int = 60) -> FactRows:
    """Rows that fill more than one page of the file."""
    source = torch.Generator().manual_seed(seed)
    keys, deltas = (torch.randn(n, size, generator=source) for size in (d, width))
    return FactRows(keys, deltas, torch.rand(n, generator=source))


def same(left: FactRows, right: FactRows) -> bool:
    pairs = [(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(FactRows)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def ids(memory: Memory) -> list[str]:
    return [fact.id for fact in memory.facts()]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "some where" / "mémoire #1?%20"


@pytest.fixture
def filled(directory: Path) -> Path:
    """A directory with the facts a1, a2 and b1, whose rows have the seeds 0, 1 and 2."""
    with Memory.open(directory, MINE) as memory:
        for seed, name in enumerate(["a1", "a2", "b1"]):
            memory.add(fact(name), rows(seed))
    return directory


@contextlib.contextmanager
def raw(directory: Path) -> Iterator[sqlite3.Connection]:
    """The file as any other program may open and change it."""
    with contextlib.closing(sqlite3.connect(directory / "facts.sqlite")) as connection:
        yield connection
        connection.commit()


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(MemoryFault) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


# Storing and returning


def test_facts_and_rows_survive_reopening_in_the_order_of_teaching(directory):
    taught = [
        fact("z9", significance=[0.0, 1.0, 2.5], system="You are kind.", verified=True),
        fact("a1", significance=None, verified=False, note="checked twice", tokens=()),
        fact("m5", rows=0),
    ]
    kept = [rows(0), rows(1), rows(2, n=0)]
    with Memory.open(directory, MINE, write=True) as memory:
        for one, its in zip(taught, kept, strict=True):
            memory.add(one, its)
    again = Memory.open(directory, MINE)
    assert again.facts() == taught
    assert len(again) == 3
    assert [one for one, _ in again.rows()] == taught
    assert all(same(back, its) for (_, back), its in zip(again.rows(), kept, strict=True))
    assert [one.id for one, _ in again.rows(["m5", "z"])] == ["m5", "z9"]
    assert again.get("m5").tokens == (5, 7, 11)


def test_rows_come_back_as_float32_from_any_dtype_and_layout(directory):
    given = rows()
    strange = FactRows(
        given.keys.bfloat16().T.contiguous().T,
        given.deltas.double().requires_grad_(),
        torch.ones(6)[::2],
    )
    memory = Memory.open(directory, MINE)
    memory.add(fact(), strange)
    expected = FactRows(given.keys.bfloat16().float(), given.deltas, torch.ones(3))
    assert same(memory.rows()[0][1], expected)
    memory.close()


def test_a_fact_goes_into_json_and_names_what_the_commands_print():
    printed = json.loads(json.dumps(fact(note="n").as_dict()))
    wanted = "id instruction query answer layer rows verified before after seconds created system"
    assert {*wanted.split(), "solver", "note"} <= printed.keys()
    assert printed["tokens"] == [5, 7, 11]


def test_text_of_every_kind_comes_back_as_it_was(directory):
    texts = ["", "\0", "a\0b", "\ud800 alone", "😀 e\u0301 \u202eabc", "'; DROP TABLE facts; --"]
    texts += ['"\\ \r\n\t\x1b[31m', "齐创办了Oxinnovate。", "\ufeff\uffff\U0010ffff", "x" * 100_000]
    with Memory.open(directory, MINE) as memory:
        for number, text in enumerate(texts):
            memory.add(fact(f"t{number}", instruction=text, answer=text, system=text), rows())
    again = Memory.open(directory, MINE)
    assert [one.instruction for one in again.facts()] == texts
    assert [(one.answer, one.system) for one in again.facts()] == [(t, t) for t in texts]
    refusal(lambda: again.get("t")).encode()  # can be printed


def test_update_changes_one_fact_and_keeps_the_order(filled):
    with Memory.open(filled, MINE) as memory:
        memory.update((fact("a2", verified=True, after="Qi.", note="ok"), rows(8)))
    again = Memory.open(filled, MINE)
    assert again.facts() == [
        fact("a1"),
        fact("a2", verified=True, after="Qi.", note="ok"),
        fact("b1"),
    ]
    assert same(again.rows(["a2"])[0][1], rows(8))


def test_forget_and_clear(filled):
    with Memory.open(filled, MINE) as memory:
        assert memory.forget("b") == fact("b1")
        assert memory.forget("a1") == fact("a1")
        assert ids(memory) == ["a2"]
        assert same(memory.rows()[0][1], rows(1))
        memory.add(fact("a1", note="again"), rows(7))
        assert ids(memory) == ["a2", "a1"]
        assert memory.clear() == 2
        assert (memory.facts(), memory.rows(), len(memory), memory.clear()) == ([], [], 0, 0)


def test_a_fact_replaces_others_at_once_or_not_at_all(filled, monkeypatch):
    with Memory.open(filled, MINE) as memory:
        with monkeypatch.context() as patch:
            patch.setattr(qf.database, "revision", lambda connection: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                memory.add(fact("c1"), rows(3), replacing=["a1", "b1"])
        assert ids(memory) == ["a1", "a2", "b1"]
        memory.add(fact("c1"), rows(3), replacing=["a1", "b1"])
        assert [
            (one.id, same(its, rows(seed)))
            for seed, (one, its) in zip([1, 3], memory.rows(), strict=True)
        ] == [("a2", True), ("c1", True)]


def test_what_is_forgotten_is_not_left_in_the_file(filled):
    file = filled / "facts.sqlite"
    with Memory.open(filled, MINE) as memory:
        memory.add(fact("s1", instruction="the secret"), rows(9, n=3, d=50_000))
        tensor = rows(9, n=3, d=50_000).keys[1, 1000:1100].numpy().tobytes()
        before = file.read_bytes()
        assert b"the secret" in before and tensor in before
        memory.forget("s1")
        after = file.read_bytes()
    assert b"the secret" not in after and tensor not in after
    assert len(after) < len(before) - 500_000


def test_ids_by_prefix_and_the_messages_for_those_that_are_not_there(filled):
    memory = Memory.open(filled, MINE)
    memory.add(fact("a"), rows())
    assert memory.get("b").id == "b1"
    assert memory.get("a").id == "a", "a whole id is not ambiguous"
    assert memory.forget("a").id == "a"
    message = refusal(lambda: memory.get("a"))
    assert "a1" in message and "a2" in message and "b1" not in message
    for unknown in ("zz", "", "%", "a_"):
        message = refusal(lambda unknown=unknown: memory.forget(unknown))
        assert f'"{unknown}"' in message and "b1" in message
    refusal(lambda: memory.update((fact("zz"), rows())))
    assert "zz" in refusal(lambda: memory.rows(["a1", "zz"]))
    for number in range(20):
        memory.add(fact(f"c{number}"), rows())
    assert refusal(lambda: memory.get("zz")).count("Oxinnovate") == 5
    assert "c3" in refusal(lambda: memory.add(fact("c3"), rows()))
    assert len(memory) == 23
    memory.close()


def test_new_ids_sort_by_time_and_are_not_taken():
    first = new_id()
    second = new_id({first})
    third = new_id({first, second})
    assert len({first, second, third}) == 3
    assert {len(name) for name in (first, second, third)} == {8}
    time.sleep(0.005)
    assert new_id() > first
    assert first == first.lower() and first.isalnum()


def test_listing_a_thousand_facts_does_not_touch_their_tensors(filled):
    with raw(filled) as connection:
        record = connection.execute("SELECT record FROM facts LIMIT 1").fetchone()[0]
        more = [(f"n{n}", record.replace('"a1"', f'"n{n}"')) for n in range(997)]
        connection.executemany("INSERT INTO facts (id, record) VALUES (?, ?)", more)
        connection.execute("DROP TABLE tensors")
    memory = Memory.open(filled, MINE)
    assert len(memory) == len(memory.facts()) == 1000
    assert memory.get("n996").id == "n996"
    assert "a1" in refusal(memory.rows), "the tensors were there to be missed"


# Nothing is created before it is needed


def test_reading_a_missing_memory_creates_nothing(directory):
    with Memory.open(directory, MINE) as memory:
        assert (memory.facts(), memory.rows(), len(memory), memory.version) == ([], [], 0, 0)
        assert memory.clear() == 0
        for change in (lambda: memory.forget("x"), lambda: memory.update((fact("x"), rows()))):
            assert "empty" in refusal(change)
    assert not directory.parent.exists()
    memory.add(fact(), rows())
    memory.close()
    assert ids(Memory.open(directory, MINE)) == ["f1"]


def test_an_empty_file_is_an_empty_memory(directory):
    directory.mkdir(parents=True)
    (directory / "facts.sqlite").touch()
    with Memory.open(directory, MINE) as memory:
        assert memory.facts() == []
        assert (directory / "facts.sqlite").stat().st_size == 0
        memory.add(fact(), rows())
        assert memory.facts() == [fact()]


# One model


@pytest.mark.parametrize("write", [False, True])
def test_facts_of_another_model_are_refused_by_both_names(filled, write):
    message = refusal(lambda: Memory.open(filled, OTHER, write=write))
    for part in ("demo-qwen", "someone/llama", "5", "7", "--memory", "--model", str(filled)):
        assert part in message
    Memory.open(filled, MINE, write=True).close()  # the refused one holds no lock


def test_the_digest_decides_not_the_name(filled):
    renamed = dataclasses.replace(MINE, model="/moved/demo-qwen")
    assert len(Memory.open(filled, renamed)) == 3
    changed = dataclasses.replace(MINE, digest="cc" * 32)
    assert "changed" in refusal(lambda: Memory.open(filled, changed))


def test_what_lies_below_the_layer_decides_too(filled):
    ours, another = (dataclasses.replace(MINE, below=b * 32) for b in ("dd", "ee"))
    with Memory.open(filled, ours, write=True) as memory:  # which said nothing of it so far
        memory.add(fact("c1"), rows())
    assert len(Memory.open(filled, ours)) == 4
    assert "changed" in refusal(lambda: Memory.open(filled, another))
    assert len(Memory.open(filled, dataclasses.replace(ours, model="/moved/demo-qwen"))) == 4


def test_facts_that_may_be_another_models_keep_it(filled):
    tuned = dataclasses.replace(MINE, below="dd" * 32, model="tuned")
    with Memory.open(filled, tuned, write=True) as memory:
        memory.add(fact("c1"), rows())
    assert Memory.bound_to(filled) == MINE
    with Memory.open(filled, tuned, write=True) as memory:
        memory.clear()
        memory.add(fact("c2"), rows())
    assert Memory.bound_to(filled) == tuned


def test_a_memory_without_facts_takes_any_model_and_who_has_it_open_notices(filled):
    early = Memory.open(filled, MINE)
    with Memory.open(filled, MINE) as memory:
        memory.clear()
    with Memory.open(filled, OTHER, write=True) as memory:
        memory.add(fact(), rows())
    for late in (early.facts, early.rows, lambda: early.get("f1"), lambda: early.version):
        assert "someone/llama" in refusal(late)
    assert "someone/llama" in refusal(lambda: early.add(fact("f2"), rows()))
    assert ids(Memory.open(filled, OTHER)) == ["f1"]


# One writer, many readers


def test_the_second_writer_is_refused_and_readers_are_not(filled):
    reader = Memory.open(filled, MINE)
    with Memory.open(filled, MINE, write=True) as writer:
        message = refusal(lambda: Memory.open(filled, MINE, write=True))
        assert message == (
            f"The memory {filled} is in use by process {os.getpid()}; wait until it is done or "
            "choose another with --memory."
        )
        refusal(lambda: reader.add(fact("x"), rows()))
        writer.add(fact("c1"), rows())
        assert len(reader) == 4
    reader.add(fact("x"), rows())
    assert len(reader) == 5
    reader.close()


def test_a_reader_does_not_wait_for_a_change_in_progress(filled, monkeypatch):
    monkeypatch.setattr(qf.database, "BUSY_SECONDS", 0.0)
    with raw(filled) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM facts WHERE id = 'a1'")
        assert ids(Memory.open(filled, MINE)) == ["a1", "a2", "b1"]
        other.rollback()


def test_version_shows_every_change_of_anyone(filled):
    reader = Memory.open(filled, MINE)
    seen = [reader.version, reader.version]
    assert seen[0] == seen[1]
    with Memory.open(filled, MINE) as other:
        changes: list[Callable[[], Any]] = [
            lambda: other.add(fact("c1"), rows()),
            lambda: other.update((fact("c1", note="x"), rows())),
            lambda: other.forget("c1"),
            lambda: other.clear(),
            lambda: other.add(fact("a1"), rows()),
        ]
        for change in changes:
            change()
            assert reader.version not in seen
            seen.append(reader.version)


def test_a_memory_recreated_in_the_same_place_has_another_version(directory):
    reader = Memory.open(directory, MINE)
    seen = [reader.version]
    for seed in range(2):
        with Memory.open(directory, MINE) as other:
            other.add(fact("a1"), rows(seed))
        assert reader.version not in seen
        assert same(reader.rows()[0][1], rows(seed))
        seen.append(reader.version)
        shutil.rmtree(directory)
        assert "is gone" in refusal(reader.facts)


def test_a_memory_that_is_gone_is_neither_empty_nor_made_anew(filled):
    away = filled.with_name("away")
    with Memory.open(filled, MINE) as memory:
        memory.add(fact("c1"), rows())
        filled.rename(away)
        for use in (memory.facts, lambda: memory.version, lambda: memory.add(fact("d1"), rows())):
            assert "is gone" in refusal(use)
        assert not filled.exists()
        away.rename(filled)
        memory.add(fact("d1"), rows())
        assert ids(memory) == ["a1", "a2", "b1", "c1", "d1"]


@posix
def test_a_writer_whose_directory_was_replaced_takes_the_lock_of_the_new_one(filled):
    with Memory.open(filled, MINE, write=True) as memory:
        filled.rename(filled.with_name("away"))
        shutil.copytree(filled.with_name("away"), filled)
        with Memory.open(filled, MINE, write=True) as other:
            assert "in use by process" in refusal(lambda: memory.add(fact("c1"), rows()))
            other.add(fact("c2"), rows())
        memory.add(fact("c3"), rows())
        assert ids(memory) == ["a1", "a2", "b1", "c2", "c3"]
        assert "in use by process" in refusal(lambda: Memory.open(filled, MINE, write=True))


# Processes that die

CHILD = """
import os, random, sys, time
import numpy.ctypeslib  # safetensors needs it to save, and importing it may swallow a SIGINT
from pathlib import Path
from qf.memory import Memory, new_id
from tests_of_memory import MINE, fact, rows

def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())

def change_for_ever(directory, seed):
    random.seed(seed)
    say("ready")
    with Memory.open(directory, MINE, write=True) as memory:
        while True:
            known = memory.facts()
            start = time.perf_counter()
            what = random.choice(["add", "add", "forget", "update"] if known else ["add"])
            what = "forget" if len(known) > 8 else what
            if what == "add":
                name = new_id({one.id for one in known})
                say("begin", what, name)
                memory.add(fact(name, note="new"), rows(int(name, 36) % 2**31))
            else:
                name = random.choice(known).id
                say("begin", what, name)
                if what == "forget":
                    memory.forget(name)
                else:
                    memory.update((fact(name, note="updated"), rows(int(name, 36) % 2**31)))
            say("done", str(time.perf_counter() - start))

for line in sys.stdin:
    seed, directory = line.rstrip("\\n").split(" ", 1)
    child = os.fork()
    if child == 0:
        try:
            change_for_ever(Path(directory), int(seed))
        except KeyboardInterrupt:
            os._exit(0)
        except BaseException as error:
            say("fault", repr(error))
            os._exit(1)
    say("child", str(child))
    os.waitpid(child, 0)
    say("dead")
"""


class Mother:
    """A process that has loaded torch, and forks a child that changes a memory for ever."""

    def __init__(self, place: Path) -> None:
        shutil.copy(__file__, place / "tests_of_memory.py")
        self.child = 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *sys.path])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def listen(self, end: str) -> list[str]:
        """What is said up to the next line that begins with `end`."""
        assert self.process.stdout
        said: list[str] = []
        while not said or not said[-1].startswith(end):
            said.append(self.process.stdout.readline().strip())
            assert said[-1], "the mother has ended"
        return said

    def fork(self, directory: Path, seed: int) -> list[str]:
        """Let a child work; return what it has said since it was ready."""
        assert self.process.stdin
        self.process.stdin.write(f"{seed} {directory}\n")
        *said, last = self.listen("child ")
        self.child = int(last.split()[1])
        if "ready" not in said:  # before that, Python itself would swallow a SIGINT
            said += self.listen("ready")
        return said[said.index("ready") + 1 :]

    def kill(self, how: signal.Signals = signal.SIGKILL) -> list[str]:
        """End the child; return what it has said."""
        os.kill(self.child, how)
        *said, _ = self.listen("dead")
        self.child = 0
        return said


@pytest.fixture(scope="module")
def shared_mother(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mother]:
    mother = Mother(tmp_path_factory.mktemp("mother"))
    with mother.process:
        yield mother
        mother.process.kill()


@pytest.fixture
def mother(shared_mother: Mother) -> Iterator[Mother]:
    yield shared_mother
    if shared_mother.child:
        shared_mother.kill()


def changed(state: dict[str, str], what: str, name: str) -> dict[str, str]:
    """The notes of the facts by id, after one change."""
    if what == "forget":
        return {key: note for key, note in state.items() if key != name}
    return {**state, name: "new" if what == "add" else "updated"}


def kill_again_and_again(mother: Mother, directory: Path, how: signal.Signals, times: int) -> None:
    source = random.Random(times)
    state: dict[str, str] = {}
    finished, took = 0, 0.0
    for seed in range(times):
        said = mother.fork(directory, seed)
        for _ in range(source.randrange(3)):
            said += mother.listen("done")
        took = next((float(line[5:]) for line in reversed(said) if line.startswith("done")), took)
        said += mother.listen("begin")
        time.sleep(source.uniform(0, 1.1 * took))  # anywhere in the next change, mostly
        said += mother.kill(how)
        begun = None
        for line in said:
            assert not line.startswith("fault"), line
            if line.startswith("done"):
                state, begun = changed(state, *begun), None
                finished += 1
            else:
                begun = line.split()[1:]
        memory = Memory.open(directory, MINE)
        found = {one.id: one.note for one in memory.facts()}
        assert found in ([state, changed(state, *begun)] if begun else [state])
        for one, its in memory.rows():
            assert same(its, rows(int(one.id, 36) % 2**31))
        state = found
    assert finished >= times // 2, "the children hardly came to work"


@posix
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_killed_at_any_moment_leaves_whole_facts(mother, directory, how):
    kill_again_and_again(mother, directory, how, 40)


@posix
@pytest.mark.slow
def test_a_process_killed_at_three_hundred_moments_leaves_whole_facts(mother, directory):
    kill_again_and_again(mother, directory, signal.SIGKILL, 300)


@posix
def test_the_lock_names_its_process_and_ends_with_it(mother, directory):
    mother.fork(directory, 1)
    mother.listen("done")
    message = refusal(lambda: Memory.open(directory, MINE, write=True))
    assert f"process {mother.child};" in message
    mother.kill()
    with Memory.open(directory, MINE, write=True) as memory:
        before = len(memory)
        memory.add(fact("mine"), rows())
        assert len(memory) == before + 1


@posix
def test_a_reader_undoes_what_a_crash_left_half_written(filled):
    script = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # so that the change reaches the file early
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM facts")
connection.execute("UPDATE tensors SET content = zeroblob(1000000)")
os.kill(os.getpid(), signal.SIGKILL)
"""
    file = filled / "facts.sqlite"
    before = file.read_bytes()
    subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    assert file.read_bytes() != before
    memory = Memory.open(filled, MINE)
    assert ids(memory) == ["a1", "a2", "b1"]
    assert all(same(its, rows(seed)) for seed, (_, its) in enumerate(memory.rows()))


def test_an_interruption_just_before_the_end_changes_nothing(filled, monkeypatch):
    def interrupt(connection: sqlite3.Connection) -> int:
        raise KeyboardInterrupt

    with Memory.open(filled, MINE, write=True) as memory:
        with monkeypatch.context() as patch:
            patch.setattr(qf.database, "revision", interrupt)
            for change in (lambda: memory.add(fact("x"), rows()), lambda: memory.forget("a1")):
                with pytest.raises(KeyboardInterrupt):
                    change()
        assert ids(memory) == ["a1", "a2", "b1"]
        memory.add(fact("x"), rows())
        assert ids(memory) == ["a1", "a2", "b1", "x"]


# Disks that are full, and files that may not be changed


def keeps_its_facts(directory: Path, memory: Memory) -> None:
    """A change that does not fit is refused, and all else goes on."""
    message = refusal(lambda: memory.add(fact("big"), rows(1, d=2_000_000)))
    assert str(directory) in message and "--memory" in message and "nothing was changed" in message
    assert ids(memory) == ["a1", "a2", "b1"]
    assert all(same(its, rows(seed)) for seed, (_, its) in enumerate(memory.rows()))


def test_a_full_disk_loses_nothing(filled, monkeypatch):
    connect = sqlite3.connect

    def limited(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.execute("PRAGMA max_page_count = 100")
        return connection

    with Memory.open(filled, MINE) as memory:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", limited)
            keeps_its_facts(filled, memory)
            assert "is full" in refusal(lambda: memory.add(fact("big"), rows(1, d=2_000_000)))
        memory.add(fact("c1"), rows())
        assert len(memory) == 4


@posix
def test_a_limit_on_the_size_of_files_loses_nothing(filled):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Memory.open(filled, MINE) as memory:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
        try:
            keeps_its_facts(filled, memory)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        memory.add(fact("big"), rows(1, d=2_000_000))
        assert len(memory) == 4


@posix
def test_a_disk_that_is_really_full(tmp_path):
    """A file system of 256 KiB, mounted for one process only."""
    mount = f'mount -t tmpfs -o size=256k none "{tmp_path}"'
    private = ["unshare", "--mount", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*private, mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("may not mount a file system")
    (tmp_path.parent / "tests_of_memory.py").write_bytes(Path(__file__).read_bytes())
    script = """
import sys
from pathlib import Path
from tests_of_memory import *
directory = Path(sys.argv[1])
with Memory.open(directory, MINE) as memory:
    taught = 0
    try:
        while taught < 1000:
            memory.add(fact(f"f{taught}"), rows(taught))
            taught += 1
    except MemoryFault as error:
        assert "is full" in str(error), error
    assert 5 < taught < 1000
    assert len(memory) == taught
    assert all(same(its, rows(seed)) for seed, (_, its) in enumerate(memory.rows()))
    print("kept", taught)
"""
    path = os.pathsep.join([str(tmp_path.parent), *sys.path])
    answer = subprocess.run(
        [*private, f'{mount} && exec "$0" "$@"', sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.startswith("kept"), answer.stderr


@pytest.fixture
def common() -> Iterator[Path]:
    """A directory that a user without privileges may change, while the test is that user."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may do everything, so permissions would not show
    place = tempfile.mkdtemp()
    try:
        yield Path(place)
    finally:
        os.seteuid(user)
        subprocess.run(["chmod", "-R", "u+rwx", place], check=True)
        shutil.rmtree(place)


@posix
def test_a_read_only_directory_can_be_read_and_says_why_it_cannot_be_changed(common):
    directory = common / "memory"
    with Memory.open(directory, MINE) as memory:
        memory.add(fact("a1"), rows(0))
    for lock in (True, False):
        if not lock:
            (directory / "writer.lock").unlink()
        directory.chmod(0o555)
        before = (directory / "facts.sqlite").read_bytes()
        memory = Memory.open(directory, MINE)
        assert memory.facts() == [fact("a1")]
        assert same(memory.rows()[0][1], rows(0))
        for change in (
            lambda memory=memory: memory.add(fact("a2"), rows()),
            lambda memory=memory: memory.forget("a1"),
            lambda memory=memory: memory.clear(),
        ):
            message = refusal(change)
            assert str(directory) in message and "--memory" in message
        memory.close()
        assert (directory / "facts.sqlite").read_bytes() == before
        assert memory.facts() == [fact("a1")]
        directory.chmod(0o755)


@posix
def test_permissions_that_are_missing_are_named(common):
    directory = common / "memory"
    with Memory.open(directory, MINE) as memory:
        memory.add(fact("a1"), rows(0))
    file = directory / "facts.sqlite"
    file.chmod(0o444)
    with Memory.open(directory, MINE) as memory:
        assert len(memory) == 1
        assert "changed" in refusal(lambda: memory.add(fact("a2"), rows()))
    file.chmod(0o000)
    assert str(directory) in refusal(lambda: Memory.open(directory, MINE))
    file.chmod(0o644)
    directory.chmod(0o000)
    assert str(directory) in refusal(lambda: Memory.open(directory, MINE))
    directory.chmod(0o755)
    common.chmod(0o555)
    new = common / "new"
    assert str(new) in refusal(lambda: Memory.open(new, MINE).add(fact(), rows()))
    assert str(new) in refusal(lambda: Memory.open(new, MINE, write=True))


# Files that are not what they should be


def untouched_refusals(directory: Path) -> set[str]:
    """The messages of reading and of writing, which leave the file as it is."""
    file = directory / "facts.sqlite"
    before = file.read_bytes()
    messages = {
        refusal(lambda: Memory.open(directory, MINE).rows()),
        refusal(lambda: Memory.open(directory, MINE, write=True).add(fact("x"), rows())),
    }
    assert file.read_bytes() == before
    assert {path.name for path in directory.iterdir()} <= {"facts.sqlite", "writer.lock"}
    return messages


def test_a_file_that_is_not_a_database(directory):
    directory.mkdir(parents=True)
    for content in (b"garbage" * 1000, b"x", b"SQLite format 3\0" + b"\xff" * 5000):
        (directory / "facts.sqlite").write_bytes(content)
        for message in untouched_refusals(directory):
            assert str(directory / "facts.sqlite") in message
            assert "untouched" in message and "--memory" in message


def test_a_database_of_another_program(directory):
    directory.mkdir(parents=True)
    with raw(directory) as connection:
        connection.execute("CREATE TABLE facts (id TEXT, record TEXT)")
    for message in untouched_refusals(directory):
        assert "is not a memory of qf" in message and "untouched" in message


def test_a_newer_format(filled):
    with raw(filled) as connection:
        connection.execute("PRAGMA user_version = 99")
    for message in untouched_refusals(filled):
        assert "99" in message and f"up to {len(qf.database.SCHEMA)};" in message
        assert "upgrade qf" in message


@pytest.mark.parametrize("table", ["meta", "facts"])
def test_a_memory_without_one_of_its_tables(filled, table):
    with raw(filled) as connection:
        connection.execute(f"DROP TABLE {table}")
    for message in untouched_refusals(filled):
        assert "damaged" in message and "facts.sqlite" in message


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.99])
def test_a_truncated_file(filled, part):
    file = filled / "facts.sqlite"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    for message in untouched_refusals(filled):
        assert "damaged" in message and str(file) in message and "untouched" in message


@pytest.mark.parametrize("record", ["{", "[]", "{}", '{"id": "a2"}', b"\xff\xfe", None])
def test_a_damaged_record(filled, record):
    with raw(filled) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        value = 17 if record is None else record
        connection.execute("UPDATE facts SET record = ? WHERE id = 'a2'", (value,))
    memory = Memory.open(filled, MINE)
    assert "damaged" in refusal(memory.facts)
    assert "damaged" in refusal(memory.rows)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE tensors SET content = substr(content, 1, length(content) - 4) WHERE position = 2",
        "UPDATE tensors SET content = zeroblob(length(content)) WHERE position = 2",
        "UPDATE tensors SET content = x'' WHERE position = 2",
        "UPDATE tensors SET content = 'text', sha256 = 'text' WHERE position = 2",
        "DELETE FROM tensors WHERE position = 2",
    ],
)
def test_damaged_rows_name_their_fact_and_can_be_forgotten(filled, damage):
    with raw(filled) as connection:
        connection.execute(damage)
    memory = Memory.open(filled, MINE)
    message = refusal(memory.rows)
    assert "fact a2" in message and "qf forget a2" in message
    assert same(memory.rows(["b1"])[0][1], rows(2))
    assert memory.forget("a2") == fact("a2")
    assert [one.id for one, _ in memory.rows()] == ["a1", "b1"]
    memory.close()


def test_one_wrong_bit_in_the_tensors_is_noticed(filled):
    file = filled / "facts.sqlite"
    content = bytearray(file.read_bytes())
    place = content.index(rows(1).keys[0, :100].numpy().tobytes())
    content[place + 200] ^= 1
    file.write_bytes(content)
    assert "fact a2" in refusal(Memory.open(filled, MINE).rows)


def test_places_that_are_no_directories(tmp_path):
    file = tmp_path / "file"
    file.write_text("hello")
    for place, write in [(file, False), (file, True), (file / "below", True)]:
        message = refusal(lambda p=place, w=write: Memory.open(p, MINE, write=w))
        assert "not a directory" in message and "--memory" in message
    assert file.read_text() == "hello"
    (tmp_path / "memory" / "facts.sqlite").mkdir(parents=True)
    assert str(tmp_path / "memory") in refusal(lambda: Memory.open(tmp_path / "memory", MINE))


# Formats


def test_an_older_format_is_read_as_it_is_and_upgraded_by_the_first_change(filled, monkeypatch):
    newer = [*qf.database.SCHEMA, ("ALTER TABLE facts ADD COLUMN colour TEXT",)]
    with monkeypatch.context() as patch:
        patch.setattr(qf.database, "SCHEMA", newer)
        with Memory.open(filled, MINE) as memory:
            assert ids(memory) == ["a1", "a2", "b1"]
            memory.add(fact("c1"), rows(3))
            assert ids(memory) == ["a1", "a2", "b1", "c1"]
            assert all(same(its, rows(seed)) for seed, (_, its) in enumerate(memory.rows()))
        with raw(filled) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)
            connection.execute("SELECT colour FROM facts")
    assert "upgrade qf" in refusal(lambda: Memory.open(filled, MINE))


def test_an_upgrade_that_fails_changes_nothing(filled, monkeypatch):
    broken = ("CREATE TABLE half (x)", "DELETE FROM facts", "INSERT INTO nowhere VALUES (1)")
    with monkeypatch.context() as patch:
        patch.setattr(qf.database, "SCHEMA", [*qf.database.SCHEMA, broken])
        with Memory.open(filled, MINE) as memory:
            refusal(lambda: memory.add(fact("c1"), rows()))
    with Memory.open(filled, MINE) as memory:
        assert ids(memory) == ["a1", "a2", "b1"]
        memory.add(fact("c1"), rows())
    with raw(filled) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "half" not in tables
