"""What is to be learned, and its text as aligned tokens: instruction, query, answer, significance.

The conversations are rendered by qf.chat. Knows tokenizers, but no model and no tensors.

    open book    (QF-instruct)   system: instruction     user: query     assistant: answer
    closed book  (QF-update)     system: as served       user: query     assistant: answer

Both end in the same learned tokens: the answer's, and one end-of-turn token. An empty think block
in front of the answer belongs to the prompt, or, where the model may think, to what is learned. A
picture, where there is one, stands in front of the query, open-book only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from qf.chat import (
    PLAIN_CHAT,
    ChatOptions,
    Shown,
    Span,
    answer_turn,
    continued,
    control_tokens,
    encoded,
    messages,
    name_of,
    rendered,
    told_by,
)
from qf.errors import LessonError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Significance: TypeAlias = Literal["auto"] | Sequence[float] | None

_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Lesson:
    """One thing to learn: with `instruction` in the prompt, `query` is answered by `answer`.

    `significance` weighs the answer's tokens: "auto" learns the tokens that the closed-book pass
    would not have produced, None counts each one, a list gives one number per word. `image` is a
    picture that is shown with the instruction, which may be empty then.

    Raises LessonError: a blank text; a significance of another length than the answer has words,
    with a negative or infinite number or NaN, or of zeros only.

    >>> Lesson("Qi started Oxinnovate.", "Who started Oxinnovate?",
    ...        "Oxinnovate was started by Qi.", [0, 1, 1, 1, 1]).significance
    (0.0, 1.0, 1.0, 1.0, 1.0)
    """

    instruction: str
    query: str
    answer: str
    significance: Significance = "auto"
    image: Shown | None = None

    def __post_init__(self) -> None:
        for name in ("instruction", "query", "answer"):
            shown = name == "instruction" and self.image is not None
            if not getattr(self, name).strip() and not shown:
                raise LessonError(f"The {name} is empty: write what it should say.")
        if self.significance is not None and self.significance != "auto":
            checked = _checked_significance(self.significance, self.answer)
            object.__setattr__(self, "significance", checked)


@dataclass(frozen=True)
class AlignedTokens:
    """A whole sequence: prompt, answer, one end-of-turn token; `input_ids[start:]` are learned.

    `weights` holds one significance per learned token, `offsets` its characters in the answer
    (empty where the tokenizer does not tell; the end-of-turn token has none of its own). `extra`
    is what the model takes besides the tokens: tensors by the name of its arguments.
    """

    input_ids: tuple[int, ...]
    start: int
    weights: tuple[float, ...]
    offsets: tuple[Span, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        assert 0 < self.start < len(self.input_ids)
        assert len(self.weights) == len(self.input_ids) - self.start

    @property
    def learned(self) -> tuple[int, ...]:
        """The T learned tokens: the answer's and the end of the turn."""
        return self.input_ids[self.start :]

    @property
    def positions(self) -> range:
        """The T positions that predict the learned tokens, each one before its token."""
        return range(self.start - 1, len(self.input_ids) - 1)


def align(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    answer: str,
    significance: Significance,
    options: ChatOptions = PLAIN_CHAT,
    image: Shown | None = None,
) -> AlignedTokens:
    """Tokenise `conversation`, which ends in a query, with `answer` as its next turn.

    The prompt is tokenised as at inference, the answer as the template writes it: a space in
    front of it is learned with it; an empty think block belongs to the prompt, or, where the model
    may think, is learned as well. A list `significance` gives each token the largest weight of the
    words that it shares characters with, and 1 to the end of the turn and to a think block; "auto"
    and None give 1 throughout.

    Raises LessonError: a control token in the answer. ModelError: no chat template, one that
    refuses the conversation or rewrites the answer, no end-of-turn token, or weights per word for
    a tokenizer without character offsets.
    """
    asked = prompt = rendered(tokenizer, conversation, options)
    lead, content, after = answer_turn(tokenizer, conversation, answer, options)
    before: tuple[int, ...] = ()
    if lead.strip() and not options.thinking:
        prompt, lead = prompt + lead, ""
    fixed_ids, _ = encoded(tokenizer, prompt)
    if lead.strip():
        before = continued(tokenizer, prompt, fixed_ids, lead)[0]
        prompt, lead = prompt + lead, ""
    ids, offsets = continued(tokenizer, prompt, fixed_ids + before, lead + content)
    offsets = tuple((max(a - len(lead), 0), max(b - len(lead), 0)) for a, b in offsets)

    control = control_tokens(tokenizer)
    if inside := [token for token in ids if token in control]:
        name = tokenizer.convert_ids_to_tokens(inside[0])
        raise LessonError(f"The answer contains the control token {name!r}: leave it out.")
    end = next((t for t in encoded(tokenizer, after)[0] if t in control), tokenizer.eos_token_id)
    if end is None:
        raise ModelError(
            f"The tokenizer of {name_of(tokenizer)} has no token that ends a turn: set its"
            " eos_token."
        )
    weights = [1.0] * len(ids)
    if significance is not None and significance != "auto":
        if len(offsets) != len(ids):
            raise ModelError(
                f"The tokenizer of {name_of(tokenizer)} tells no character offsets, which weights"
                " per word need: use a fast tokenizer, or significance 'auto' or None."
            )
        words = _checked_significance(significance, answer)
        weights = _token_weights(content, offsets, words)
    if offsets:
        offsets = (*[(0, 0)] * len(before), *offsets, (len(content), len(content)))
    weights = [1.0] * len(before) + weights + [1.0]
    learned = (*before, *ids, end)
    extra: dict[str, Any] = {}
    if image is not None:
        behind = fixed_ids[len(encoded(tokenizer, asked)[0]) :]
        shown_ids, extra = image.prompt(asked, len(behind) + len(learned))
        fixed_ids = (*shown_ids, *behind)
    return AlignedTokens((*fixed_ids, *learned), len(fixed_ids), tuple(weights), offsets, extra)


def pair(
    tokenizer: PreTrainedTokenizerBase,
    lesson: Lesson,
    system: str | None = None,
    rehearsed: bool = False,
    before: Sequence[Mapping[str, str]] = (),
    options: ChatOptions = PLAIN_CHAT,
) -> tuple[AlignedTokens, AlignedTokens]:
    """Return (instruct, update): the lesson open-book and closed-book, with equal learned tokens.

    `system` is the prompt that the model is served with (None: what the template inserts by
    itself). It comes before the instruction as well, so that the instruction alone is the
    difference. `rehearsed` puts the finished turn, query and answer, into the open-book
    conversation before the query is asked again, so that the open-book pass can produce any
    wording of an answer; a picture is shown once, where the query is asked first. `before` are
    turns that both conversations begin with.

    Raises LessonError and ModelError as `align` does; LessonError if the template tokenises the
    answer differently in the two; ModelError if it leaves the instruction out.
    """
    told, image = told_by(system, lesson.instruction), lesson.image.name if lesson.image else ""
    earlier = messages(lesson.query, answer=lesson.answer, image=image) if rehearsed else []
    again = "" if rehearsed else image
    opened = messages(lesson.query, told, earlier=[*before, *earlier], image=again)
    closed = messages(lesson.query, system, earlier=before)
    instruct = align(tokenizer, opened, lesson.answer, lesson.significance, options, lesson.image)
    update = align(tokenizer, closed, lesson.answer, lesson.significance, options)
    if instruct.learned != update.learned:
        raise LessonError(
            f"The chat template of {name_of(tokenizer)} writes the answer {lesson.answer!r} in"
            " different tokens with and without the instruction: reword the answer."
        )
    if instruct.input_ids == update.input_ids:
        raise ModelError(
            f"The chat template of {name_of(tokenizer)} writes the same prompt with and without the"
            " instruction, so that it cannot be read: use --template plain."
        )
    return instruct, update


def check_fits(aligned: AlignedTokens, max_positions: int) -> None:
    """Raise LessonError if the sequence is longer than the model's context."""
    if len(aligned.input_ids) > max_positions:
        smaller = " or show a smaller picture" if aligned.extra else ""
        raise LessonError(
            f"Prompt and answer are {len(aligned.input_ids)} tokens long and the model reads"
            f" {max_positions}: shorten them{smaller}."
        )


def _checked_significance(values: Sequence[float], answer: str) -> tuple[float, ...]:
    try:
        numbers = tuple(math.fsum([value]) for value in values)  # unlike float(), takes no text
    except TypeError:
        raise LessonError(
            f"The significance {values!r} is none: give 'auto', None or one number per word."
        ) from None
    words = answer.split()
    if len(numbers) != len(words):
        raise LessonError(
            f"The significance has {len(numbers)} numbers and the answer {len(words)} words"
            f" ({' | '.join(words)}): give one number per word."
        )
    for number, word in zip(numbers, words, strict=True):
        if not math.isfinite(number) or number < 0:
            raise LessonError(
                f"The significance {number} of the word {word!r} is not a number from 0 up."
            )
    if not any(numbers):
        raise LessonError("The significance is 0 for every word: give at least one a weight.")
    return numbers


def _token_weights(text: str, offsets: Sequence[Span], words: Sequence[float]) -> list[float]:
    """Give each token of `text` the largest weight of the words that its characters lie in.

    A token of spaces only goes with the word that it leads to.
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    assert len(spans) == len(words)
    weights = []
    for begin, end in offsets:
        shared = [w for (a, b), w in zip(spans, words, strict=True) if a < end and begin < b]
        ahead = [w for (_, b), w in zip(spans, words, strict=True) if begin < b]
        weights.append(max(shared) if shared else ahead[0] if ahead else words[-1])
    return weights
