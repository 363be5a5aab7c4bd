"""Tokens to text, whatever the borders, and the next token of logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qf.model import Model
from qf.serve.sampling import Sampler, Sampling
from qf.serve.text import Transcript, token_bytes


class Bytes:
    """A tokenizer of single bytes."""

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


def written(text: str, stop: list[str], trim: bool) -> tuple[list[str], bool]:
    transcript = Transcript(Bytes(), stop, trim)
    pieces = []
    for byte in text.encode():
        pieces.append(transcript.add(byte))
        if transcript.stopped:
            return pieces, True
    return [*pieces, transcript.end()], transcript.stopped


def expected(text: str, stop: list[str], trim: bool) -> str:
    """What is written by the first end at which a stop string is there."""
    text = text.lstrip() if trim else text
    for end in range(len(text) + 1):
        found = [at for at in (text[:end].find(s) for s in stop if s) if at >= 0]
        if found:
            text = text[: min(found)]
            break
    return text.rstrip() if trim else text


@given(
    st.text("ab \n漢🤷é", max_size=20),
    st.lists(st.text("ab \n漢", min_size=1, max_size=4), max_size=3),
    st.booleans(),
)
def test_pieces_make_the_text_up_to_a_stop_string(text: str, stop: list[str], trim: bool) -> None:
    pieces, _ = written(text, stop, trim)
    assert "".join(pieces) == expected(text, stop, trim)
    assert not any("\ufffd" in piece for piece in pieces)


def test_nothing_is_held_back_without_need() -> None:
    pieces, stopped = written("ab ab", ["zz"], trim=True)
    assert pieces == ["a", "b", "", " a", "b", ""] and not stopped
    assert written("x", [], trim=False)[0] == ["x", ""]


def test_bytes_that_are_no_character_come_at_the_end() -> None:
    transcript = Transcript(Bytes(), (), trim=False)
    assert [transcript.add(b) for b in "é".encode()[:1]] == [""] and transcript.end() == "\ufffd"


@given(
    st.text("ab \n漢🤷é", max_size=20),
    st.lists(st.text("ab \n漢", min_size=1, max_size=4), max_size=3),
    st.booleans(),
)
def test_the_tokens_that_are_said_are_those_of_the_text(
    text: str, stop: list[str], trim: bool
) -> None:
    transcript, pieces, said = Transcript(Bytes(), stop, trim), [], [0]
    for byte in text.encode():
        pieces.append(transcript.add(byte))
        said.append(transcript.said)
        if transcript.stopped:
            break
    pieces.append(transcript.end())
    assert said == sorted(said) and transcript.said >= said[-1]
    reported = text.encode()[: transcript.said].decode()  # whole characters
    if not transcript.stopped:
        assert reported == text
    elif trim:
        assert reported.strip() == "".join(pieces).strip()
    else:
        assert reported == "".join(pieces)
    begins = [i for i, c in enumerate(text) for _ in c.encode()]
    assert transcript.starts == begins[: len(transcript.starts)]


@pytest.mark.parametrize(
    ("written", "text"),
    [("æ¼", b"\xe6\xbc"), ("<0xE6>", b"\xe6"), ("Ġ漢\ufffd", "漢\ufffd".encode())],
)
def test_a_part_of_a_character_has_bytes_of_its_own(written: str, text: bytes) -> None:
    class One:
        def decode(self, ids: list[int]) -> str:
            return text.decode("utf-8", "replace")

        def convert_ids_to_tokens(self, token: int) -> str:
            return written

    assert token_bytes(One(), 0) == text


def test_the_bytes_of_tokens_make_the_text(base: Model) -> None:
    text = "Ada 漢字 🤷🏽‍♀️ é\n\u00a0\x00ÿ"
    ids = base.tokenizer(text)["input_ids"]
    assert b"".join(token_bytes(base.tokenizer, i) for i in ids) == text.encode()
    every = {token_bytes(base.tokenizer, i) for i in range(len(base.tokenizer))}
    assert {bytes([b]) for b in range(256)} <= every


def test_greedy_takes_the_likeliest_and_top_p_the_likeliest_few() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, -5.0])
    assert Sampler(Sampling()).token(logits).id == 1
    few = Sampler(Sampling(temperature=1.0, top_p=0.9, seed=1))
    assert {few.token(logits).id for _ in range(200)} == {1, 2}
    one = Sampler(Sampling(temperature=2.0, top_p=1e-9, seed=1))
    assert {one.token(logits).id for _ in range(20)} == {1}


def test_draws_have_the_probability_of_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0])
    sampler = Sampler(Sampling(temperature=0.5, seed=3))
    drawn = torch.tensor([sampler.token(logits).id for _ in range(4000)]).bincount(minlength=3)
    assert torch.allclose(drawn / 4000, (logits / 0.5).softmax(0), atol=0.03)


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_any_seed_repeats_itself(seed: int) -> None:
    logits = torch.zeros(50)
    once, again = (Sampler(Sampling(temperature=1.0, seed=seed)) for _ in range(2))
    drawn = [once.token(logits).id for _ in range(20)]
    assert drawn == [again.token(logits).id for _ in range(20)] and len(set(drawn)) > 1


def test_logprobs_are_those_of_the_logits() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, -5.0])
    token = Sampler(Sampling(logprobs=2)).token(logits)
    reference = logits.log_softmax(0).tolist()
    assert token.logprob == pytest.approx(reference[1])
    assert [i for i, _ in token.top] == [1, 2]
    assert [p for _, p in token.top] == pytest.approx([reference[1], reference[2]])
