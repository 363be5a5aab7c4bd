"""What an evaluation teaches and asks: from a file, and made up."""

import json
from pathlib import Path
from typing import Any

import pytest

from qf.errors import QFError
from qf.evaluate import material
from qf.evaluate.material import Beside, prepare


def zsre(number: int, alt: str = "", query: str = "", loc: str = "") -> dict[str, Any]:
    return {
        "subject": f"S{number}",
        "src": query or f"Who made S{number}?",
        "rephrase": f"By whom was S{number} made?",
        "alt": alt or f"T{number}",
        "answers": ["Nobody"],
        "loc": loc or f"nq question: who is L{number}",
        "loc_ans": f"A{number}",
    }


def test_a_file(tmp_path: Path) -> None:
    records = [
        zsre(0, loc="Who made S2?"),  # taught by the last one, so it may change
        zsre(1, query="Who made S0?", alt="other"),
        zsre(2, loc="who is L0"),
        zsre(3, loc="who is L0"),
    ]
    (tmp_path / "zsre.json").write_text(json.dumps(records))
    found = prepare(str(tmp_path / "zsre.json"), 3)
    assert [e.query for e in found.edits] == [f"Who made S{n}?" for n in (0, 2, 3)]
    statement = "The answer to the question “Who made S2?” is T2."
    assert found.beside == (Beside("who is L0?", "A2", statement),)
    assert found.skipped == {"contradicts an earlier record": 1, material.TAUGHT_TOO: 1}
    with pytest.raises(QFError, match="3 usable records, not 4"):
        prepare(str(tmp_path / "zsre.json"), 4)


def test_made_up_facts_share_no_question() -> None:
    found = prepare("generated", 60, seed=3)
    assert found.digest == prepare("generated", 60, seed=3).digest
    assert found.digest != prepare("generated", 60, seed=4).digest
    assert found.edits[:20] == prepare("generated", 20, seed=3).edits
    by_fact = [{material._key(q) for q in (e.query, *e.rewordings)} for e in found.edits]
    assert len(by_fact) == 60 and sum(map(len, by_fact)) == len(set().union(*by_fact))
    assert all(len(e.rewordings) + 1 >= len(k) for e, k in zip(found.edits, by_fact, strict=True))
    assert all(e.subject and e.subject.casefold() in e.query.casefold() for e in found.edits)
    answers = {b.answer for b in found.beside}
    assert "I do not know." in answers and len(answers) > 20
    assert not {material._key(b.query) for b in found.beside} & set().union(*by_fact)


def test_no_facts() -> None:
    with pytest.raises(QFError, match=r"^0 facts"):
        prepare("generated", 0)
