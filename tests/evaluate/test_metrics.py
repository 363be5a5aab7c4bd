"""The figures against values computed by hand, and against plain computations of another kind."""

import doctest
import math
import random
import string

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qf.evaluate import metrics
from qf.evaluate.metrics import (
    Chances,
    contains,
    counterfact_scores,
    exact,
    fluency,
    harmonic_mean,
    kept,
    magnitude,
    mean,
    neighbourhood_magnitude,
    neighbourhood_success,
    ngram_entropy,
    probability,
    success,
    token_accuracy,
    unchanged,
    words,
)


def test_the_examples() -> None:
    result = doctest.testmod(metrics)
    assert result.attempted >= 15 and result.failed == 0


# Probabilities


def test_the_figures_of_rome_by_hand() -> None:
    edits = [[Chances(0.9, 0.1)], [Chances(0.2, 0.6)]]
    paraphrases = [[Chances(0.5, 0.3), Chances(0.1, 0.2)], [Chances(0.4, 0.1)]]
    neighbours = [[Chances(0.1, 0.7), Chances(0.3, 0.3), Chances(0.5, 0.1), Chances(0.0, 0.2)]]
    scores = counterfact_scores(edits, paraphrases, neighbours)
    assert scores._asdict() == pytest.approx(
        {
            "ES": 1 / 2,
            "EM": (0.8 - 0.4) / 2,
            "PS": (1 / 2 + 1) / 2,  # by record, not by prompt
            "PM": ((0.2 - 0.1) / 2 + 0.3) / 2,
            "NS": 2 / 4,
            "NM": (0.6 + 0.0 - 0.4 + 0.2) / 4,
            "S": 3 / (1 / 0.5 + 1 / 0.75 + 1 / 0.5),
        }
    )


def test_a_tie_is_no_success() -> None:
    tie = [[Chances(0.3, 0.3)]]
    assert success(tie) == neighbourhood_success(tie) == 0.0


def test_the_figures_are_those_of_romes_own_summary() -> None:
    """Computed from negative log likelihoods, smaller is more probable, as its code stores them."""
    rng = random.Random(1)
    nll = [
        [(rng.uniform(0, 9), rng.uniform(0, 9)) for _ in range(rng.randint(1, 5))] for _ in "x" * 40
    ]
    chances = [[Chances(probability([-n]), probability([-t])) for n, t in record] for record in nll]
    arrays = [np.array(record) for record in nll]
    assert success(chances) == pytest.approx(np.mean([np.mean(a[:, 1] > a[:, 0]) for a in arrays]))
    assert neighbourhood_success(chances) == pytest.approx(
        np.mean([np.mean(a[:, 1] < a[:, 0]) for a in arrays])
    )
    gain = np.mean([np.mean(np.exp(-a[:, 0]) - np.exp(-a[:, 1])) for a in arrays])
    assert magnitude(chances) == pytest.approx(gain)
    assert neighbourhood_magnitude(chances) == pytest.approx(-gain)


def test_a_longer_object_is_not_less_probable_for_its_length() -> None:
    one, three = [math.log(0.2)], [math.log(0.2)] * 3
    assert probability(one) == pytest.approx(probability(three)) == pytest.approx(0.2)
    assert probability([math.log(0.9), math.log(0.1)]) == pytest.approx(0.3)


def test_a_share_of_nothing_is_none() -> None:
    assert (
        mean([]) is success([]) is magnitude([[], []]) is kept([], []) is unchanged([], []) is None
    )
    scores = counterfact_scores([[Chances(0.9, 0.1)]], [[]], [])
    assert (scores.ES, scores.PS, scores.NS, scores.S) == (1.0, None, None, None)
    assert success([[], [Chances(0.9, 0.1)]]) == 1.0  # a record without prompts does not count


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_the_harmonic_mean(values: list[float]) -> None:
    expected = len(values) / sum(1 / v for v in values)
    assert harmonic_mean(values) == pytest.approx(expected)
    assert harmonic_mean([*values, 0.0]) == 0.0
    assert harmonic_mean([*values, None]) is None


# Tokens


def test_token_accuracy() -> None:
    assert token_accuracy([1, 2, 3, 4], [1, 9, 3, 4]) == 0.75
    assert token_accuracy([2, 1], [1, 2]) == 0.0  # each at its own place
    assert token_accuracy([7], [7]) == 1.0


@pytest.mark.parametrize(("predicted", "target"), [([1], [1, 2]), ([1, 2], [1]), ([], [])])
def test_token_accuracy_wants_a_prediction_for_each_token(
    predicted: list[int], target: list[int]
) -> None:
    with pytest.raises(AssertionError):
        token_accuracy(predicted, target)


# Answers


@pytest.mark.parametrize(
    ("answer", "target", "is_exact", "is_contained"),
    [
        ("Paris", "Paris", True, True),
        ("  paris. ", "Paris", True, True),
        ("The Eiffel Tower", "Eiffel tower", True, True),
        ("It is in Paris, France.", "Paris", False, True),
        ("She was born in New York City.", "New York", False, True),
        ("It is a new city near York.", "New York", False, False),
        ("York New", "New York", False, False),
        ("Paraguay", "Ara", False, False),
        ("Pari", "Paris", False, False),
        ("", "Paris", False, False),
        ("Paris", "", False, False),
        ("", "", False, False),
        ("anything", ")", False, False),
        ("STRASSE", "Straße", True, True),
        ("Cafe\u0301 Noir", "Café noir", True, True),
        ("Cafe Noir", "Café noir", False, False),
        ("in the U.S.", "US", False, True),
        ("O’Neil", "O'Neil", True, True),
        ("the 1929–1930 season", "1929", False, True),
        ("$3617593", "$3,617,593", True, True),
        ("3.5", "35", False, False),
        ("3.5 million", "5 million", False, False),
        ("43rd", "43rd.", True, True),
        ("1, 234", "1234", False, False),
        ("version 1,2345", "12345", False, False),
        ("It is A.", "A", False, True),
        ("The The", "the the", True, True),
        ("A band of the year", "band year", False, False),
        ("It is 東京.", "東京", False, True),
        ("हिंदी", "ह द", False, False),
        ("Ｐａｒｉｓ", "Paris", True, True),
    ],
)
def test_answers(answer: str, target: str, is_exact: bool, is_contained: bool) -> None:
    assert exact(answer, target) is is_exact
    assert contains(answer, target) is is_contained


plain = st.lists(st.text(string.ascii_letters + string.digits, min_size=1, max_size=3), max_size=8)


@given(plain, plain)
def test_contained_is_what_a_search_for_whole_words_finds(
    said: list[str], wanted: list[str]
) -> None:
    a, t = (
        [w.lower() for w in side if w.lower() not in ("a", "an", "the")] for side in (said, wanted)
    )
    if t:
        assert contains(" ".join(said), " ".join(wanted)) is (
            f" {' '.join(t)} " in f" {' '.join(a)} "
        )
        assert exact(" ".join(said), " ".join(wanted)) is (a == t)


@given(st.text(), st.text())
def test_any_two_texts_compare(answer: str, target: str) -> None:
    assert exact(answer, target) <= contains(answer, target)
    assert all(word and word == word.strip() for word in words(answer))
    if words(target):
        assert exact(target, target) and contains(f"so: {target} !", target)


# Fluency


def test_entropy_by_hand() -> None:
    tokens = "a b a b c".split()
    # bigrams ab, ba, ab, bc: 1/2, 1/4, 1/4; trigrams aba, bab, abc: thirds
    assert ngram_entropy(tokens, 2) == pytest.approx(1.5)
    assert ngram_entropy(tokens, 3) == pytest.approx(math.log2(3))
    assert fluency("a b a b c") == pytest.approx((2 / 3 * 1.5 + 4 / 3 * math.log2(3)) / 2)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 4))
def test_entropy_by_counting(tokens: list[str], n: int) -> None:
    grams = ["".join(tokens[i : i + n]) for i in range(max(0, len(tokens) - n + 1))]
    shares = np.array([grams.count(gram) / len(grams) for gram in sorted(set(grams))])
    assert ngram_entropy(tokens, n) == pytest.approx(float(-(shares * np.log2(shares)).sum()))


def test_repetition_is_told_from_speech() -> None:
    speech = "Paris is the capital of France, and many people visit it every year."
    assert fluency(speech) > 3 > fluency("is is is is is is is is is is") == 0.0
    assert fluency("") == fluency("word") == 0.0
    assert fluency("one, two, three") > fluency("one two three")  # marks are tokens


# Locality


def test_kept_counts_only_what_was_right_before() -> None:
    before, after = [True, True, True, False, False], [True, False, True, True, False]
    assert kept(before, after) == pytest.approx(2 / 3)
    assert kept([False], [True]) is None


def test_unchanged_counts_all_alike() -> None:
    assert unchanged(["a", "b", "c", "d"], ["a", "x", "c", "d"]) == 0.75
    assert unchanged([(1, 2), (3,)], [(1, 2), (4,)]) == 0.5


def test_before_and_after_must_pair() -> None:
    with pytest.raises(ValueError, match="zip"):
        kept([True], [True, False])
    with pytest.raises(ValueError, match="zip"):
        unchanged(["a", "b"], ["a"])
