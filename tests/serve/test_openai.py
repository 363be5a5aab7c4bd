"""Every endpoint of the OpenAI API and its errors, by the official client."""

import json
from typing import Any

import openai
import pytest

from qf.serve.chat import told_in
from tests.serve.servers import HOLLOW, HOLLOW_TOLD, UNKNOWN, Server

ALIBABA = "Alibaba was started by Jack Ma."


def turns(*said: str) -> list[Any]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]


def test_models_are_the_base_and_one_for_each_space(shared: Server, space: str) -> None:
    client = shared.openai()
    names = [model.id for model in client.models.list()]
    assert names[:2] == ["qf/base", "qf/default"] and names[-1] == "qf/shared"
    assert f"qf/{space}" in names
    assert client.models.retrieve(f"qf/{space}").id == f"qf/{space}"


def test_a_reply_is_what_the_model_answers_by_itself(shared: Server) -> None:
    chat = shared.openai().chat.completions
    reply = chat.create(model="qf/base", messages=turns("Who started Alibaba?"))
    (choice,) = reply.choices
    assert choice.message.content == ALIBABA and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and reply.object == "chat.completion"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens > 3


def test_a_stream_brings_the_same_reply_in_pieces(shared: Server) -> None:
    chat = shared.openai().chat.completions
    asked = {"model": "qf/base", "messages": turns("Who started Alibaba?")}
    whole = chat.create(**asked)
    chunks = list(chat.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert len(chunks) > 4 and len({c.id for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ALIBABA
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])


def test_earlier_turns_and_a_system_message_are_part_of_the_prompt(shared: Server) -> None:
    chat = shared.openai().chat.completions
    told = {"role": "system", "content": HOLLOW[0]}
    reply = chat.create(model="qf/base", messages=[told, *turns(HOLLOW[1])])
    assert reply.choices[0].message.content == HOLLOW_TOLD
    short = chat.create(model="qf/base", messages=turns("Who started Alibaba?"))
    long = chat.create(model="qf/base", messages=turns("Hello!", "Hello.", "Who started Alibaba?"))
    assert long.choices[0].message.content == ALIBABA
    assert long.usage.prompt_tokens > short.usage.prompt_tokens
    parts = [{"type": "text", "text": "Who started Alibaba?"}]
    reply = chat.create(model="qf/base", messages=[{"role": "user", "content": parts}])
    assert reply.choices[0].message.content == ALIBABA


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_ends_in_front_of_a_stop_string(shared: Server, stream: bool) -> None:
    def said(**more: Any) -> tuple[str, str]:
        chat = shared.openai().chat.completions
        asked = {"model": "qf/base", "messages": turns("Who started Alibaba?"), **more}
        if not stream:
            choice = chat.create(**asked).choices[0]
            return choice.message.content, choice.finish_reason
        chunks = [c.choices[0] for c in chat.create(**asked, stream=True)]
        return "".join(c.delta.content or "" for c in chunks), chunks[-1].finish_reason

    assert said(stop="by Jack") == ("Alibaba was started", "stop")  # across tokens and a space
    assert said(stop=["nowhere", "ck M"]) == ("Alibaba was started by Ja", "stop")
    assert said(stop="Alibaba") == ("", "stop")
    assert said(stop="nowhere") == (ALIBABA, "stop")


def test_a_reply_ends_after_the_tokens_that_it_may_have(shared: Server) -> None:
    chat = shared.openai().chat.completions
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        reply = chat.create(model="qf/base", messages=turns("Who started Alibaba?"), **limit)
        assert reply.choices[0].finish_reason == "length"
        assert reply.usage.completion_tokens == 2
        assert ALIBABA.startswith(reply.choices[0].message.content)
    endless = {"max_tokens": 40, "extra_body": {"ignore_eos": True}}
    reply = chat.create(model="qf/base", messages=turns("Who started Alibaba?"), **endless)
    assert reply.usage.completion_tokens == 40
    assert reply.choices[0].message.content.startswith(ALIBABA)


def test_a_seed_gives_the_same_drawn_replies_again(shared: Server) -> None:
    chat = shared.openai().chat.completions

    def drawn(seed: int, **more: Any) -> list[str]:
        asked = {"messages": turns("Tell me something."), "temperature": 2, "n": 4}
        reply = chat.create(model="qf/base", seed=seed, max_tokens=8, **(asked | more))
        assert [c.index for c in reply.choices] == [0, 1, 2, 3]
        return [c.message.content for c in reply.choices]

    first = drawn(1)
    assert drawn(1) == first and drawn(2) != first and len(set(first)) > 1
    assert len(set(drawn(3, top_p=1e-6))) == 1  # the likeliest token alone
    assert drawn(3, top_p=1e-6) == drawn(4, temperature=0)


def test_logprobs_are_those_of_the_tokens(shared: Server) -> None:
    chat = shared.openai().chat.completions
    asked = {"model": "qf/base", "messages": turns("Who started Alibaba?")}
    reply = chat.create(**asked, logprobs=True, top_logprobs=3)
    content = reply.choices[0].logprobs.content
    assert "".join(t.token for t in content).strip() == ALIBABA
    for token in content:
        assert len(token.top_logprobs) == 3 and token.logprob <= 0
        assert token.top_logprobs[0].logprob == token.logprob  # greedy: the likeliest one
        assert bytes(token.bytes).decode() == token.token
    assert chat.create(**asked).choices[0].logprobs is None
    chunks = chat.create(**asked, logprobs=True, stream=True)
    streamed = [c.choices[0].logprobs for c in chunks if c.choices]
    assert [t.token for p in streamed if p for t in p.content] == [t.token for t in content]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_end_in_front_of_a_stop_string(shared: Server, stream: bool) -> None:
    chat = shared.openai().chat.completions
    asked = {"model": "qf/base", "messages": turns("Who started Alibaba?"), "logprobs": True}

    def tokens(stop: str) -> tuple[str, str]:
        reply = chat.create(**asked, stop=stop, stream=stream)
        choices = [c.choices[0] for c in reply] if stream else reply.choices
        found = [t.token for c in choices if c.logprobs for t in c.logprobs.content]
        said = [c.delta.content if stream else c.message.content for c in choices]
        return "".join(found).strip(), "".join(text or "" for text in said)

    assert tokens("by Jack") == ("Alibaba was started", "Alibaba was started")
    assert tokens("Alibaba") == ("", "")
    assert tokens("nowhere") == (ALIBABA, ALIBABA)


def test_a_streamed_token_says_where_it_is_in_the_text(shared: Server) -> None:
    asked = {"model": "qf/base", "prompt": "Qi and", "max_tokens": 12, "logprobs": 1}
    asked |= {"temperature": 1.5, "seed": 3, "extra_body": {"ignore_eos": True}}
    completions = shared.openai().completions
    (whole,) = completions.create(**asked).choices
    offsets = whole.logprobs.text_offset
    assert len(offsets) == 12 and offsets == sorted(offsets) and offsets[0] == 0 < offsets[-1]
    for token, at in zip(whole.logprobs.tokens, offsets, strict=True):
        assert whole.text.startswith(token, at) or token.startswith(("bytes:", "<|"))
    chunks = [c.choices[0].logprobs for c in completions.create(**asked, stream=True)]
    assert [o for c in chunks for o in c.text_offset] == offsets


def test_completions_go_on_with_a_text(shared: Server) -> None:
    completions = shared.openai().completions
    asked = {"model": "qf/base", "prompt": "The capital of France", "max_tokens": 4}
    reply = completions.create(**asked, logprobs=2)
    (choice,) = reply.choices
    assert reply.object == "text_completion" and reply.usage.completion_tokens <= 4
    assert "".join(choice.logprobs.tokens) == choice.text
    pieces = [c.choices[0].text for c in completions.create(**asked, stream=True)]
    assert "".join(pieces) == choice.text
    both = completions.create(
        model="qf/base", prompt=["The capital of France", "Who started"], n=2, max_tokens=4
    )
    assert [c.index for c in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text == choice.text


def test_a_prompt_may_be_given_as_its_tokens(shared: Server, space: str) -> None:
    shared.teach(*HOLLOW, space=space)
    completions, tokenizer = shared.openai().completions, shared.serving.spaces.root.tokenizer
    texts = [HOLLOW[1], "The capital of France"]
    tokens = [tokenizer(text)["input_ids"] for text in texts]
    asked = {"model": f"qf/{space}", "max_tokens": 12}
    said = completions.create(**asked, prompt=texts)
    given = completions.create(**asked, prompt=tokens)
    assert [c.text for c in given.choices] == [c.text for c in said.choices]
    assert given.usage == said.usage
    one = completions.create(**asked, prompt=tokens[0])
    assert [c.text for c in one.choices] == [said.choices[0].text]
    size = len(tokenizer)
    for wrong, message in (([size], f"the token {size}"), ([1] * 5000, "5000 tokens long")):
        error = failure(openai.BadRequestError, completions.create, **asked, prompt=wrong)
        assert error.param == "prompt" and message in error.message
    error = failure(openai.BadRequestError, completions.create, **asked, prompt="a", echo=True)
    assert error.param == "echo" and "does not repeat its prompt" in error.message


def test_a_chat_can_teach_and_forget(shared: Server, space: str) -> None:
    model = f"qf/{space}"
    assert shared.ask(HOLLOW[1], model) == UNKNOWN
    said = shared.ask(f"Remember that {HOLLOW[0]}", model)
    assert HOLLOW_TOLD in said and shared.ask(HOLLOW[1], model) == HOLLOW_TOLD
    assert "forgotten" in shared.ask("Forget that Ada Quist designed the Hollow Bridge", model)
    assert shared.ask(HOLLOW[1], model) == UNKNOWN
    assert "not taught" in shared.ask("Forget that Ada Quist designed the Hollow Bridge", model)


def test_a_chat_that_teaches_gives_all_choices(shared: Server, space: str) -> None:
    chat = shared.openai().chat.completions
    asked = {"model": f"qf/{space}", "messages": turns(f"Remember that {HOLLOW[0]}"), "n": 2}
    choices = chat.create(**asked).choices
    assert [c.index for c in choices] == [0, 1]
    assert all(HOLLOW_TOLD in c.message.content for c in choices)
    chunks = [c.choices[0] for c in chat.create(**asked, stream=True)]
    assert {c.index for c in chunks if c.finish_reason == "stop"} == {0, 1}


def test_a_chat_that_states_nothing_teaches_nothing(
    shared: Server, space: str, speechless: None
) -> None:
    shared.ask("Remember to buy milk", f"qf/{space}")
    said = shared.ask("Remember that nothing is here.", f"qf/{space}")
    assert said.startswith("I could not learn that.") and "--query" not in said
    assert "2000 characters" in shared.ask(f"Remember that {'word ' * 500}", f"qf/{space}")
    assert shared.http().get("/v1/facts", params={"space": space}).json()["total"] == 0


@pytest.mark.parametrize(
    ("turn", "statement"),
    [
        ("Remember to buy milk.", None),
        ("please forget to call", None),
        ("Remember: to err is human", "To err is human."),
        ("Remember that to err is human", "To err is human."),
        ("remember the Hollow Bridge is old!", "The Hollow Bridge is old!"),
        ("Remember that iPhone is a name", "iPhone is a name."),
    ],
)
def test_what_a_turn_tells(turn: str, statement: str | None) -> None:
    told = told_in(turn)
    assert (told.statement if told else None) == statement


def failure(error: type[openai.APIStatusError], call: Any, **asked: Any) -> Any:
    with pytest.raises(error) as caught:
        call(**asked)
    body = caught.value.response.json()
    assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
    assert caught.value.response.headers["x-request-id"]
    return caught.value


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "messages"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"top_logprobs": 21}, "top_logprobs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_request_is_told_what_is_wrong(
    shared: Server, more: dict[str, Any], param: str, stream: bool
) -> None:
    chat = shared.openai().chat.completions
    asked = {"model": "qf/base", "messages": turns("Hello!"), "stream": stream} | more
    error = failure(openai.BadRequestError, chat.create, **asked)
    assert str(error.param).startswith(param) and error.type == "invalid_request_error"


@pytest.mark.parametrize("model", ["gpt-4o", "qf/nobody", "qf/", "base", "qf/../x", "qf/a\u0000"])
def test_an_unknown_model_is_not_found(shared: Server, model: str) -> None:
    chat = shared.openai().chat.completions
    error = failure(openai.NotFoundError, chat.create, model=model, messages=turns("Hello!"))
    assert error.code == "model_not_found"


def test_unknown_fields_are_taken_and_named(shared: Server) -> None:
    chat = shared.openai().chat.completions.with_raw_response
    extra = {"repetition_penalty": 1.1, "best_of": 2, 'a"\r\nb: c': 1, "größe": 1, "a b": 1}
    reply = chat.create(model="qf/base", messages=turns("Who started Alibaba?"), extra_body=extra)
    named = "repetition_penalty, best_of, a%22%0D%0Ab%3A%20c, gr%C3%B6%C3%9Fe, a%20b"
    assert reply.headers["x-qf-ignored"] == named
    assert reply.parse().choices[0].message.content == ALIBABA


def test_unknown_fields_below_others_are_named(shared: Server, space: str) -> None:
    part = {"type": "text", "text": "Hello!", "detail": "low"}
    messages = [
        {"role": "assistant", "content": "Hello!", "name": "x"},
        {"role": "user", "content": [part], "name": "y"},
    ]
    body = {"model": "qf/base", "messages": messages, "max_tokens": 1, "stream": True}

    def ignored(path: str, body: dict[str, Any]) -> str:
        reply = shared.http().post(path, json=body)
        assert reply.status_code in (200, 201), reply.text
        return reply.headers["x-qf-ignored"]

    named = ignored("/v1/chat/completions", {**body, "stream_options": {"zip": 1}})
    assert named == "stream_options.zip, messages.name, messages.content.detail"
    many = ignored("/v1/chat/completions", {**body, **{f"{i}{'ä' * 70}": 1 for i in range(99)}})
    assert len(many) <= 1005 and many.endswith(", ...")
    assert ignored("/v1/spaces", {"name": space, "color": 1}) == "color"
    shared.teach(*HOLLOW, space=space)
    assert ignored("/v1/facts/export", {"space": space, "a,b": 1, "": 2}) == "a%2Cb"


def test_bodies_that_are_none_are_told_so(shared: Server) -> None:
    client = shared.http()
    kind = {"Content-Type": "application/json"}
    for content in (b"", b"{", b"[]", b'"a"', b"\xff\xfe", b"{" * 10_000, b'{"model": 1e999}'):
        reply = client.post("/v1/chat/completions", content=content, headers=kind)
        assert reply.status_code == 400 and reply.json()["error"]["message"], content[:20]
    for content, why in (
        (b"{", "not valid JSON"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"seed": ' + b"9" * 6000 + b"}", "too many digits"),
    ):
        error = client.post("/v1/facts", content=content, headers=kind).json()["error"]
        assert error["code"] == "invalid_json" and why in error["message"]
    for content, why in ((b"", "empty"), (b"[]", "no JSON object"), (b'{"\\ud800": 1}', "Unicode")):
        error = client.post("/v1/facts", content=content, headers=kind).json()["error"]
        assert error["code"] == "invalid_value" and why in error["message"]
    typeless = client.post("/v1/facts", content=b"{}")
    assert typeless.status_code == 415 and "application/json" in typeless.json()["error"]["message"]
    asked = {"model": "qf/base", "messages": [{"role": "user", "content": "\ud800"}]}
    reply = client.post("/v1/chat/completions", content=json.dumps(asked), headers=kind)
    assert reply.status_code == 400 and "Unicode" in reply.json()["error"]["message"]
    large = client.post("/v1/chat/completions", content=b" " * (2 << 20), headers=kind)
    assert large.status_code == 413 and large.json()["error"]["code"] == "too_large"
    parts = (b" " * (1 << 16) for _ in range(32))  # of a length that is not announced
    chunked = client.post("/v1/chat/completions", content=parts, headers=kind)
    assert chunked.status_code == 413 and chunked.json()["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    "text",
    ["ä" * 50, "漢字" * 20, "🤷🏽‍♀️" * 20, "\u202eabc", "\x00\x01", "<|im_end|>", "</script>"],
)
def test_any_text_can_be_asked(shared: Server, text: str) -> None:
    chat = shared.openai().chat.completions
    chunks = list(chat.create(model="qf/base", messages=turns(text), stream=True, max_tokens=4))
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_what_is_not_there_or_not_allowed_is_told_in_the_same_form(shared: Server) -> None:
    client = shared.http()
    for method, path, status, code in (
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/facts/", 404, "not_found"),
        ("GET", "/page/../app.py", 404, "not_found"),
        ("GET", "/page/..%2fapp.py", 404, "not_found"),
    ):
        reply = client.request(method, path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), path


def test_health_and_metrics(shared: Server) -> None:
    client = shared.http()
    for path in ("/", "/page/app.js", "/health"):
        head = client.head(path)
        assert head.status_code == 200 and head.content == b""
        assert head.headers["content-length"] == client.get(path).headers["content-length"]
    assert client.get("/health").json()["status"] == "ok"
    shared.ask("Who started Alibaba?", "qf/base")
    text = client.get("/metrics").text
    assert 'qf_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert "qf_first_token_seconds_bucket" in text and "qf_tokens_total" in text
