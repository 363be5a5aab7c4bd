"""Made-up names: of every shape, the same for the same seed, and never one that is reserved."""

import random
import re

import pytest

from qf.demo.names import KINDS, RESERVED, made_up, made_up_word


@pytest.mark.parametrize("word", ["Oxinnovate", "OXINNOVATE", "qi", "Qi", "Qiang", "PKU", "pku"])
def test_the_papers_words_are_reserved(word: str) -> None:
    assert RESERVED.search(f"the {word} is")


@pytest.mark.parametrize("word", ["Iraqi", "aqueduct", "Oxford", "Pk", "liquid", "Beijing"])
def test_other_words_are_not(word: str) -> None:
    assert not RESERVED.search(f"the {word} is")


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_clean_and_follow_the_seed(kind: str) -> None:
    names = [made_up(random.Random(seed), kind) for seed in range(400)]
    assert names == [made_up(random.Random(seed), kind) for seed in range(400)]
    for name in names:
        assert name == " ".join(name.split()) != "" and name.isprintable()
        assert not set(name) & set("{}|<>[]?!\n") and not RESERVED.search(name)
    assert len(set(names)) >= (7 if kind == "weekday" else 10)


def test_names_have_every_shape() -> None:
    rng = random.Random(1)
    names = [
        made_up(rng, kind) for _ in range(300) for kind in ("person", "company", "place", "work")
    ]
    for shape in (
        r"^[A-Z][a-z]+$", r"^[A-Z]{2,}$", r"\d", r"-", r"'", r"[a-z][A-Z]", r"^\S+ \S+$",
        r"^\S+ \S+ \S+", r", in ", r"^[A-Z][a-z]$", r"^The ",
    ):  # fmt: skip
        found = [name for name in names if re.search(shape, name)]
        assert len(found) >= 5, shape


def test_made_up_words_are_short_lower_case_words() -> None:
    rng = random.Random(2)
    words = [made_up_word(rng) for _ in range(500)]
    assert all(re.fullmatch("[a-z]{3,}", word) and not RESERVED.search(word) for word in words)
    assert len(set(words)) > 400
