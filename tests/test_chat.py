"""Conversations as turns and tokens; what lessons make of them, tests/test_lesson.py shows."""

from qf.chat import PLAIN_TEMPLATE, messages, prompt_ids


def test_messages_write_a_system_turn_only_when_there_is_a_text():
    user = {"role": "user", "content": "q"}
    assert messages("q") == [user]
    assert messages("q", system="") == [{"role": "system", "content": ""}, user]
    assert messages("q", answer="a") == [user, {"role": "assistant", "content": "a"}]
    assert messages("q", "s", earlier=messages("p", answer="o")) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "p"},
        {"role": "assistant", "content": "o"},
        user,
    ]


def test_the_plain_template_begins_with_the_tokenizers_first_token(tiny_tokenizer):
    tiny_tokenizer.chat_template = PLAIN_TEMPLATE
    tiny_tokenizer.bos_token = "<|endoftext|>"
    assert prompt_ids(tiny_tokenizer, messages("q"))[0] == tiny_tokenizer.bos_token_id
