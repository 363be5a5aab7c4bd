"""Conversations as a model reads them: through its own chat template, as text and as tokens.

Inference and learning both take their prompt from here. Knows tokenizers, but no model, no tensors,
and nothing of what is to be learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import jinja2

from qf.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message: TypeAlias = dict[str, str]
Span: TypeAlias = tuple[int, int]  # characters [from, to)

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
    ids, offsets = encoded(tokenizer, text)
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


def told_by(system: str | None, instruction: str) -> str | None:
    """Return the system turn that tells an instruction under the prompt that is served."""
    if not instruction.strip():
        return system
    return f"{system}\n{instruction}" if system else instruction


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
    return rendered(tokenizer, asked, options) != rendered(tokenizer, asked, without)


def _prompt(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, str]],
    options: ChatOptions,
) -> str:
    """Write the text that the model goes on from.

    Without thinking, a think block that the template itself writes in front of recorded answers
    only, or leaves open, is closed here.
    """
    prompt = rendered(tokenizer, conversation, options)
    if options.thinking or THINK not in str(tokenizer.chat_template):
        return prompt
    lead = _around_answer(tokenizer, conversation, options)[0]
    return prompt + lead if lead.strip() else prompt


def answer_turn(
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
            f"The chat template of {name_of(tokenizer)} rewrites the answer {answer!r}: reword it,"
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
        f"The chat template of {name_of(tokenizer)} asks for an answer in another form than it"
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
    return rendered(tokenizer, turns, options, said is None).rpartition(_QUERY)[2]


class _TemplateRefusal(Exception):  # noqa: N818 - caught here: it may take other turns
    """A chat template did not write a conversation; says why."""


def rendered(
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
            f"{name_of(tokenizer)} has no chat template: give --template plain to use the form"
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
            f"The chat template of {name_of(tokenizer)} does not take this conversation"
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
                f"The chat template of {name_of(tokenizer)} has no place for a picture: use the"
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


def encoded(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[tuple[int, ...], tuple[Span, ...]]:
    """Return token ids and, where the tokenizer tells them, their characters in `text`."""
    if not text:
        return (), ()
    # Templates write the special tokens themselves.
    found = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast)
    )
    offsets = tuple((int(a), int(b)) for a, b in found.get("offset_mapping", ()))
    return tuple(found["input_ids"]), offsets


def continued(
    tokenizer: PreTrainedTokenizerBase, before: str, before_ids: tuple[int, ...], text: str
) -> tuple[tuple[int, ...], tuple[Span, ...]]:
    """Tokenise `text` as it follows `before`; the offsets count in `text`.

    Where a token would reach over the border, `text` is tokenised by itself, because at inference
    the model answers to `before_ids`.
    """
    ids, offsets = encoded(tokenizer, before + text)
    n = len(before_ids)
    if ids[:n] != before_ids:
        return encoded(tokenizer, text)
    return ids[n:], tuple((max(a - len(before), 0), b - len(before)) for a, b in offsets[n:])


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids of the tokens that stand for no text."""
    added = tokenizer.added_tokens_decoder.items()
    return {i for i, token in added if token.special} | set(tokenizer.all_special_ids)


def name_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a tokenizer's model is called in a message."""
    return tokenizer.name_or_path or "The model"
