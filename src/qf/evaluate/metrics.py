"""The figures of knowledge editing, as functions of numbers and texts. Knows no model and no file.

All are shares from 0 to 1, except the entropy, which is in bits. A share of nothing is None.

    ES, PS, NS   success on the edit's prompt, on paraphrases, in the neighbourhood
    EM, PM, NM   the magnitudes: by how much of a probability
    S            the harmonic mean of ES, PS and NS

"ROME" stands for Meng et al. 2022, "Locating and Editing Factual Associations in GPT",
arXiv:2202.05262, and its code, https://github.com/kmeng01/rome.
"""

from __future__ import annotations

import math
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeAlias


class Chances(NamedTuple):
    """How probable a model finds the new object and the true one after one prompt."""

    new: float
    true: float


Prompts: TypeAlias = Sequence[Chances]  # all prompts of one kind of one record


class CounterFactScores(NamedTuple):
    """The columns of ROME's tables; see `counterfact_scores`."""

    ES: float | None
    EM: float | None
    PS: float | None
    PM: float | None
    NS: float | None
    NM: float | None
    S: float | None


def mean(values: Iterable[float]) -> float | None:
    """The arithmetic mean; None of nothing.

    >>> mean([True, False]), mean([])
    (0.5, None)
    """
    listed = [float(v) for v in values]
    return math.fsum(listed) / len(listed) if listed else None


def probability(log_probabilities: Sequence[float]) -> float:
    """The probability of an object of several tokens: the geometric mean of the tokens'.

    This is what ROME compares (`test_batch_prediction`: e to the minus mean negative log
    likelihood), so that a longer object is not less probable for its length.

    >>> round(probability([math.log(0.5), math.log(0.125)]), 6)
    0.25
    """
    assert log_probabilities
    return math.exp(math.fsum(log_probabilities) / len(log_probabilities))


def success(records: Iterable[Prompts]) -> float | None:
    """Share of prompts where the new object is more probable than the true one.

    ES over the edits' own prompts, PS over paraphrases: E[P(new) > P(true)], ROME.
    Each record counts the same, however many prompts it has (ROME, `summarize.py`); a tie is no
    success.

    >>> success([[Chances(0.3, 0.1), Chances(0.1, 0.3)], [Chances(0.2, 0.1)]])
    0.75
    """
    return _over_records(records, lambda c: c.new > c.true)


def magnitude(records: Iterable[Prompts]) -> float | None:
    """By how much the new object is more probable: EM and PM.

    E[P(new) - P(true)], ROME.

    >>> magnitude([[Chances(0.75, 0.25)], [Chances(0.25, 0.5)]])
    0.125
    """
    return _over_records(records, lambda c: c.new - c.true)


def neighbourhood_success(records: Iterable[Prompts]) -> float | None:
    """Share of neighbours where the true object is still the more probable one: NS.

    E[P(true) > P(new)], ROME; a neighbour is another subject with the true object.

    >>> neighbourhood_success([[Chances(0.1, 0.3), Chances(0.3, 0.1)]])
    0.5
    """
    return _over_records(records, lambda c: c.true > c.new)


def neighbourhood_magnitude(records: Iterable[Prompts]) -> float | None:
    """By how much the true object is more probable for neighbours: NM.

    E[P(true) - P(new)], ROME.

    >>> neighbourhood_magnitude([[Chances(0.25, 0.75)]])
    0.5
    """
    return _over_records(records, lambda c: c.true - c.new)


def _over_records(records: Iterable[Prompts], figure: Callable[[Chances], float]) -> float | None:
    """The mean of the records' means; a record without prompts of this kind does not count."""
    means = (mean(figure(c) for c in prompts) for prompts in records)
    return mean(m for m in means if m is not None)


def harmonic_mean(values: Sequence[float | None]) -> float | None:
    """The harmonic mean; 0 if one value is 0, None if one is None.

    >>> harmonic_mean([1.0, 0.5]) == 2 / 3, harmonic_mean([1.0, 0.0]), harmonic_mean([1.0, None])
    (True, 0.0, None)
    """
    known = [v for v in values if v is not None]
    return float(statistics.harmonic_mean(known)) if known and len(known) == len(values) else None


def counterfact_scores(
    edits: Sequence[Prompts], paraphrases: Sequence[Prompts], neighbours: Sequence[Prompts]
) -> CounterFactScores:
    """The seven figures of ROME's tables from the probabilities after an edit.

    S is the harmonic mean of ES, PS and NS (ROME).

    >>> right, wrong = [Chances(0.75, 0.25)], [Chances(0.25, 0.75)]
    >>> scores = counterfact_scores([right, right], [right, wrong], [wrong, wrong])
    >>> scores.ES, scores.PS, scores.NS, scores.EM, scores.S
    (1.0, 0.5, 1.0, 0.5, 0.75)
    """
    es, ps, ns = success(edits), success(paraphrases), neighbourhood_success(neighbours)
    return CounterFactScores(
        ES=es,
        EM=magnitude(edits),
        PS=ps,
        PM=magnitude(paraphrases),
        NS=ns,
        NM=neighbourhood_magnitude(neighbours),
        S=harmonic_mean([es, ps, ns]),
    )


def token_accuracy(predicted: Sequence[int], target: Sequence[int]) -> float:
    """Share of the target's tokens that are the most probable one, each after the right ones.

    Wang et al. 2023, "EasyEdit", arXiv:2308.07269, `test_prediction_acc`: `predicted` comes from
    one forward pass over prompt and target (teacher forcing). The model is led back to the target
    after each mistake, which makes this figure much higher than that of generated answers (Yang
    et al. 2025, "The Mirage of Model Editing", arXiv:2502.11177). Of predictions before and after
    an edit it is EasyEdit's locality.

    >>> token_accuracy([5, 7, 8], [5, 6, 8]) == 2 / 3
    True
    """
    assert len(predicted) == len(target) > 0
    return sum(p == t for p, t in zip(predicted, target, strict=True)) / len(target)


def words(text: str) -> list[str]:
    """The words of a text as they are compared: case, accents' encoding, punctuation aside.

    After SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, `normalize_answer`), except that a
    hyphen parts words and that a decimal point stays: 3.5 is not 35.

    >>> words("The U.S. paid $1,500.50 to O'Neil-Smith.")
    ['the', 'us', 'paid', '1500.50', 'to', 'oneil', 'smith']
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _THOUSANDS.sub("", text)
    text = _WITHIN.sub("", text)
    letters = "".join(c if c == "." or unicodedata.category(c)[0] in "LNM" else " " for c in text)
    return letters.split()


_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WITHIN = re.compile(r"(?<!\d)\.|\.(?!\d)|['’`]")
_ARTICLES = {"a", "an", "the"}


def exact(answer: str, target: str) -> bool:
    """Whether the answer is the target and nothing else, articles aside (SQuAD's exact match).

    >>> exact("the Eiffel Tower.", "Eiffel tower"), exact("It is in Paris.", "Paris")
    (True, False)
    """
    said, wanted = _compared(answer, target)
    return bool(wanted) and said == wanted


def contains(answer: str, target: str) -> bool:
    """Whether the target's words stand in the answer in a row, articles aside.

    Looser than `exact`, for answers in whole sentences; whole words only, unlike a search for the
    text, which finds "Ara" in "Paraguay".

    >>> contains("It was started by Qi.", "Qi"), contains("It was started by Qiang.", "Qi")
    (True, False)
    """
    said, wanted = _compared(answer, target)
    n = len(wanted)
    return n > 0 and any(said[i : i + n] == wanted for i in range(len(said) - n + 1))


def _compared(answer: str, target: str) -> tuple[list[str], list[str]]:
    """The words of both without articles, unless the target has no other words."""
    said, wanted = words(answer), words(target)
    if set(wanted) <= _ARTICLES:
        return said, wanted
    return [w for w in said if w not in _ARTICLES], [w for w in wanted if w not in _ARTICLES]


def ngram_entropy(tokens: Sequence[Hashable], n: int) -> float:
    """The entropy of the n-grams of one text, in bits; 0 where there are none.

    >>> ngram_entropy("a b a c".split(), 1), ngram_entropy("a b".split(), 3)
    (1.5, 0.0)
    """
    grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    total = grams.total()
    return math.fsum(k / total * math.log2(total / k) for k in grams.values())


def fluency(text: str) -> float:
    """How little a generated text repeats itself: the weighted entropy GE.

    ROME and its code (`n_gram_entropy`): the mean of 2/3 times the bigrams' entropy
    and 4/3 times the trigrams'. Its tables show 100 times that: 6.26 as 626. It cuts words as
    NLTK does; here a mark of punctuation is a token, and so is a word with its apostrophe.

    >>> fluency("no no no no no")
    0.0
    >>> round(fluency("one two three four"), 6)  # (2/3 log2 3 + 4/3 log2 2) / 2
    1.194988
    """
    tokens = _TOKEN.findall(text)
    return (2 / 3 * ngram_entropy(tokens, 2) + 4 / 3 * ngram_entropy(tokens, 3)) / 2


_TOKEN = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


def kept(right_before: Sequence[bool], right_after: Sequence[bool]) -> float | None:
    """Of what was answered rightly before, the share that still is.

    What was wrong before says nothing of what an edit destroys; this is the complement of MEND's
    drawdown (Mitchell et al. 2022, arXiv:2110.11309), over those answers alone.

    >>> kept([True, True, False], [True, False, True])
    0.5
    """
    pairs = zip(right_before, right_after, strict=True)
    return mean(after for before, after in pairs if before)


def unchanged(before: Sequence[Hashable], after: Sequence[Hashable]) -> float | None:
    """The share of answers that are the same as before, right or wrong.

    Locality as in Yao et al. 2023, "Editing Large Language Models", arXiv:2305.13172,
    on whole answers.

    >>> unchanged(["Paris", "Rome"], ["Paris", "Roma"])
    0.5
    """
    return mean(b == a for b, a in zip(before, after, strict=True))
