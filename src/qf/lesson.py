"""What is to be learned, and its text as aligned tokens: instruction, query, answer, significance.

Renders through the model's own chat template. Knows tokenizers, but no model and no tensors.

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
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import jinja2

from qf.errors import LessonError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message: TypeAlias = dict[str, str]
Span: TypeAlias = tuple[int, int]  # characters [from, to)
Significance: TypeAlias = Literal["auto"] | Sequence[float] | None

# For models without a chat template: set it as `tokenizer.chat_template`. The turn ends with the
# tokenizer's end-of-sequence token, which is not written between turns.
PLAIN_TEMPLATE = (
    "{%- if bos_token is defined and bos_token -%}{{- bos_token -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{%- if message['content'] -%}{{- message['content'] + '\\n' -}}{%- endif -%}"
    "{%- elif message['role'] == 'user' -%}{{- 'Question: ' + message['content'] + '\\n' -}}"
    "{%- else -%}{{- 'Answer: ' + message['content'] + '\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Answer:' -}}{%- endif -%}"
)

# Stand for a query and an answer while the template's own text around them is read off: private
# use characters, which neither occur in a template nor are stripped by one.
_QUERY, _ANSWER = "\ue000query\ue001", "\ue000answer\ue001"
_WORD = re.compile(r"\S+")
THINK, THOUGHT = "<think>", "</think>"  # around what a thinking model says to itself


@dataclass(frozen=True)
class ChatOptions:
    """What a chat template is given besides the turns.

    `tools` are descriptions of functions, as Transformers' `apply_chat_template` takes them. With
    `thinking` a model that can think may do so before it answers; without, its prompt ends in an
    empty think block.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    thinking: bool = False


PLAIN_CHAT = ChatOptions()


class Shown(Protocol):
    """A picture that a prompt shows; `qf.picture.Picture` is one."""

    @property
    def name(self) -> str:
        """What people call it; never empty."""

    @property
    def sha256(self) -> str:
        """What tells it from others."""

    def prompt(self, text: str, after: int = 0) -> tuple[tuple[int, ...], dict[str, Any]]:
        """Return the tokens of a prompt that shows it, and what else the model takes with them.

        `after` is the number of tokens that are to follow, which the latter leaves room for.
        """


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


def messages(
    query: str,
    system: str | None = None,
    answer: str | None = None,
    *,
    earlier: Sequence[Mapping[str, str]] = (),
    image: str = "",
) -> list[Message]:
    """Return a conversation: system turn, earlier turns, query, and the answer if there is one.

    `system=None` writes no system turn, so that the template inserts what it inserts when there
    is none; `system=""` writes an empty one. `image` is the name of a picture that the query's
    turn shows.

    >>> messages("Who started Alibaba?", system="")
    [{'role': 'system', 'content': ''}, {'role': 'user', 'content': 'Who started Alibaba?'}]
    """
    turns = [] if system is None else [{"role": "system", "content": system}]
    turns += [dict(turn) for turn in earlier]
    turns.append({"role": "user", "content": query} | ({"image": image} if image else {}))
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    return turns


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    options: ChatOptions = PLAIN_CHAT,
) -> tuple[int, ...]:
    """Tokenise a conversation that ends in a query, up to where the model begins to answer.

    Inference and learning both take their prompt from here.

    Raises ModelError: the tokenizer has no chat template, or it refuses the conversation.
    """
    return prompt_with_span(tokenizer, conversation, options)[0]


def prompt_with_span(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    options: ChatOptions = PLAIN_CHAT,
) -> tuple[tuple[int, ...], Span]:
    """As `prompt_ids`, and which of the tokens are those of the last query: [from, to).

    All of them, where the tokenizer tells no offsets or the template rewrites the query.
    """
    text = _prompt(tokenizer, conversation, options)
    ids, offsets = _encode(tokenizer, text)
    query = conversation[-1]["content"].strip()
    begin = text.rfind(query)
    end = begin + len(query)
    inside = [i for i, (a, b) in enumerate(offsets) if begin >= 0 and a < end and b > begin]
    return ids, (inside[0], inside[-1] + 1) if inside else (0, len(ids))


def prompt_with_image(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    image: Shown,
    options: ChatOptions = PLAIN_CHAT,
) -> tuple[tuple[int, ...], Span, dict[str, Any]]:
    """As `prompt_with_span`, of a conversation that shows `image`, and what else the model takes.

    Raises LessonError and ModelError as the image's own `prompt` does.
    """
    written, (begin, end) = prompt_with_span(tokenizer, conversation, options)
    ids, extra = image.prompt(_prompt(tokenizer, conversation, options))
    shift = len(ids) - len(written)  # the query comes after the picture
    return ids, (begin + shift, end + shift), extra


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
    asked = prompt = _render(tokenizer, conversation, options)
    lead, content, after = _answer_turn(tokenizer, conversation, answer, options)
    before: tuple[int, ...] = ()
    if lead.strip() and not options.thinking:
        prompt, lead = prompt + lead, ""
    fixed_ids, _ = _encode(tokenizer, prompt)
    if lead.strip():
        before = _continue(tokenizer, prompt, fixed_ids, lead)[0]
        prompt, lead = prompt + lead, ""
    ids, offsets = _continue(tokenizer, prompt, fixed_ids + before, lead + content)
    offsets = tuple((max(a - len(lead), 0), max(b - len(lead), 0)) for a, b in offsets)

    control = _control_tokens(tokenizer)
    if inside := [token for token in ids if token in control]:
        name = tokenizer.convert_ids_to_tokens(inside[0])
        raise LessonError(f"The answer contains the control token {name!r}: leave it out.")
    end = next((t for t in _encode(tokenizer, after)[0] if t in control), tokenizer.eos_token_id)
    if end is None:
        raise ModelError(
            f"The tokenizer of {_name(tokenizer)} has no token that ends a turn: set its eos_token."
        )
    weights = [1.0] * len(ids)
    if significance is not None and significance != "auto":
        if len(offsets) != len(ids):
            raise ModelError(
                f"The tokenizer of {_name(tokenizer)} tells no character offsets, which weights"
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
        behind = fixed_ids[len(_encode(tokenizer, asked)[0]) :]
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
            f"The chat template of {_name(tokenizer)} writes the answer {lesson.answer!r} in"
            " different tokens with and without the instruction: reword the answer."
        )
    if instruct.input_ids == update.input_ids:
        raise ModelError(
            f"The chat template of {_name(tokenizer)} writes the same prompt with and without the"
            " instruction, so that it cannot be read: use --template plain."
        )
    return instruct, update


def told_by(system: str | None, instruction: str) -> str | None:
    """Return the system turn that tells an instruction under the prompt that is served."""
    if not instruction.strip():
        return system
    return f"{system}\n{instruction}" if system else instruction


def check_fits(aligned: AlignedTokens, max_positions: int) -> None:
    """Raise LessonError if the sequence is longer than the model's context."""
    if len(aligned.input_ids) > max_positions:
        smaller = " or show a smaller picture" if aligned.extra else ""
        raise LessonError(
            f"Prompt and answer are {len(aligned.input_ids)} tokens long and the model reads"
            f" {max_positions}: shorten them{smaller}."
        )


def without_thoughts(text: str) -> str:
    """What a thinking model says once it has thought: its text without the think block.

    The block may have been opened in the prompt already. Of one that has not ended, nothing is
    said yet.

    >>> without_thoughts("<think>Qi?</think> It was Qi.")
    'It was Qi.'
    """
    thoughts, ended, said = text.partition(THOUGHT)
    if ended:
        return said.lstrip()
    return "" if thoughts.lstrip().startswith(THINK) else text


def takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template takes a system turn, or its text has to go into the user's."""
    try:
        _apply(tokenizer, messages(_QUERY, system=_ANSWER), True, PLAIN_CHAT)
    except _TemplateRefusal:
        return False
    return True


def writes_tools(tokenizer: PreTrainedTokenizerBase, options: ChatOptions) -> bool:
    """Whether the chat template says anything of the tools in `options`."""
    asked, without = messages(_QUERY), replace(options, tools=())
    return _render(tokenizer, asked, options) != _render(tokenizer, asked, without)


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


def _prompt(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    options: ChatOptions,
) -> str:
    """Write the text that the model goes on from.

    Without thinking, a think block that the template itself writes in front of recorded answers
    only, or leaves open, is closed here.
    """
    prompt = _render(tokenizer, conversation, options)
    if options.thinking or THINK not in str(tokenizer.chat_template):
        return prompt
    lead = _around_answer(tokenizer, conversation, options)[0]
    return prompt + lead if lead.strip() else prompt


def _answer_turn(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    answer: str,
    options: ChatOptions,
) -> tuple[str, str, str]:
    """Return what the template writes after the prompt: before the answer, the answer, after it."""
    lead, before, after = _around_answer(tokenizer, conversation, options)
    full = _behind_query(tokenizer, conversation, answer, options)
    content = full[len(before) : len(full) - len(after)]
    if full != before + content + after or content.strip() != answer.strip():
        raise ModelError(
            f"The chat template of {_name(tokenizer)} rewrites the answer {answer!r}: reword it,"
            " or use --template plain."
        )
    return lead, content, after


def _around_answer(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    options: ChatOptions,
) -> tuple[str, str, str]:
    """Return what stands between prompt and answer, between query and answer, and after it."""
    ask = _behind_query(tokenizer, conversation, None, options)
    sample = _behind_query(tokenizer, conversation, _ANSWER, options)
    before, found, after = sample.partition(_ANSWER)
    if found and before.startswith(ask):
        return before[len(ask) :], before, after
    header, opened, block = ask.rpartition(THINK)
    if found and opened and before.startswith(header):  # recorded answers come without the block
        if not block.strip():
            return f"\n{THOUGHT}\n\n", before, after
        if block.strip() == THOUGHT and not before[len(header) :].strip():
            return "", before, after
    raise ModelError(
        f"The chat template of {_name(tokenizer)} asks for an answer in another form than it"
        " records one: use --template plain."
    )


def _behind_query(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    said: str | None,
    options: ChatOptions,
) -> str:
    """Return what the template writes behind the query, with an answer or up to where one begins.

    Only this text is compared: some templates write the system text to the last turn only, so that
    an answered conversation does not begin like the prompt.
    """
    turns = [*conversation[:-1], {**conversation[-1], "content": _QUERY}]
    if said is not None:
        turns.append({"role": "assistant", "content": said})
    return _render(tokenizer, turns, options, said is None).rpartition(_QUERY)[2]


class _TemplateRefusal(Exception):  # noqa: N818 - caught here: it may take other turns
    """A chat template did not write a conversation; says why."""


def _render(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    options: ChatOptions,
    open_ended: bool = True,
) -> str:
    """Write a conversation; where no system turn is taken, its text begins the user's first turn.

    Raises ModelError: no chat template, or one that takes the conversation in neither form.
    """
    turns = [dict(turn) for turn in conversation]
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"{_name(tokenizer)} has no chat template: give --template plain to use the form"
            " 'Question: ... Answer:'."
        )
    try:
        try:
            return _apply(tokenizer, turns, open_ended, options)
        except _TemplateRefusal:
            if turns[0]["role"] != "system":
                raise
            return _apply(tokenizer, _told_by_user(turns), open_ended, options)
    except _TemplateRefusal as refusal:
        raise ModelError(
            f"The chat template of {_name(tokenizer)} does not take this conversation"
            f" ({refusal}): use --template plain."
        ) from refusal


def _told_by_user(turns: Sequence[Message]) -> list[Message]:
    """The conversation with the text of its system turn at the beginning of the next turn."""
    system, first, *others = turns
    told = "\n\n".join(text for text in (system["content"], first["content"]) if text)
    return [{**first, "content": told}, *others]


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Message],
    open_ended: bool,
    options: ChatOptions,
) -> str:
    shown = any("image" in turn for turn in turns)
    parts = _reads_parts(tokenizer, tokenizer.chat_template)
    try:
        text = tokenizer.apply_chat_template(
            [_in_parts(t) if parts or "image" in t else dict(t) for t in turns],
            tools=[dict(tool) for tool in options.tools] or None,
            tokenize=False,
            add_generation_prompt=open_ended,
            enable_thinking=options.thinking,  # templates that know no thinking ignore it
        )
    except Exception as error:  # a template is a program of its author's, with faults of its own
        if shown and isinstance(error, TypeError):
            raise ModelError(
                f"The chat template of {_name(tokenizer)} has no place for a picture: use the"
                " template that comes with the model."
            ) from error
        why = str(error) if isinstance(error, jinja2.TemplateError) else repr(error)
        raise _TemplateRefusal(why) from error
    assert isinstance(text, str)
    return text


def _in_parts(turn: Mapping[str, str]) -> dict[str, Any]:
    """Return a turn in the form of vision-language models: its picture, then its text."""
    text = {"type": "text", "text": turn["content"]}
    content = [{"type": "image"}, text] if "image" in turn else [text]
    return {"role": turn["role"], "content": content}


@lru_cache(maxsize=8)
def _reads_parts(tokenizer: PreTrainedTokenizerBase, template: Any) -> bool:
    """Whether a chat template reads a turn's content in parts only, and plain text not at all."""

    def writes(content: Any) -> str:
        try:
            turn = {"role": "user", "content": content}
            return str(tokenizer.apply_chat_template([turn], tokenize=False))
        except Exception:  # a template is code of any kind, and may fail in any way
            return ""

    if _QUERY in writes(_QUERY):
        return False
    said = writes([{"type": "text", "text": _QUERY}])
    return _QUERY in said and "'type'" not in said


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[tuple[int, ...], tuple[Span, ...]]:
    """Return token ids and, where the tokenizer tells them, their characters in `text`."""
    if not text:
        return (), ()
    # Templates write the special tokens themselves.
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast)
    )
    offsets = tuple((int(a), int(b)) for a, b in encoded.get("offset_mapping", ()))
    return tuple(encoded["input_ids"]), offsets


def _continue(
    tokenizer: PreTrainedTokenizerBase, before: str, before_ids: tuple[int, ...], text: str
) -> tuple[tuple[int, ...], tuple[Span, ...]]:
    """Tokenise `text` as it follows `before`; the offsets count in `text`.

    Where a token would reach over the border, `text` is tokenised by itself, because at inference
    the model answers to `before_ids`.
    """
    ids, offsets = _encode(tokenizer, before + text)
    n = len(before_ids)
    if ids[:n] != before_ids:
        return _encode(tokenizer, text)
    return ids[n:], tuple((max(a - len(before), 0), b - len(before)) for a, b in offsets[n:])


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = tokenizer.added_tokens_decoder.items()
    return {i for i, token in added if token.special} | set(tokenizer.all_special_ids)


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or "The model"
