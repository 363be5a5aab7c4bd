"""Published figures of a model at hand, against plain forward passes and sums done by hand."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from qf.chat import messages
from qf.evaluate import material, published
from qf.evaluate.datasets import Edit
from qf.evaluate.journal import Journal
from qf.evaluate.material import prepare
from qf.evaluate.published import NAMES, Heard, Said, Untaught, hear, scores
from qf.evaluate.run import Settings, evaluate
from qf.loading import Loaded
from qf.model import Model
from tests.samples import FACTS, OTHERS, calibrate_on_little, published_file

STATEMENT, QUESTION = FACTS[0]


def edit(**changes: Any) -> Edit:
    fields: dict[str, Any] = {
        "id": "0", "instruction": "s", "prompt": "q", "query": "q", "target": "new", "subject": "",
        "old": "true", "rewordings": (), "locality": (), "source": "test",
    }  # fmt: skip
    return Edit(**fields | changes)


def by_hand(loaded: Loaded, system: str | None, query: str, answer: str) -> tuple[float, list[int]]:
    """The geometric mean of the answer's probabilities, and the argmax, from one forward pass."""
    talk = messages(query, system)
    text = loaded.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    before = loaded.tokenizer(text, add_special_tokens=False).input_ids
    after = loaded.tokenizer(answer, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = loaded.transformer(torch.tensor([before + after])).logits[0]
    rows = logits[len(before) - 1 : -1].double().softmax(1)
    product = math.prod(rows[i, token].item() for i, token in enumerate(after))
    return product ** (1 / len(after)), rows.argmax(1).tolist()


@pytest.fixture
def loaded(speaker: Any) -> Loaded:
    return Loaded(*speaker(), "speaker")


def test_an_answer_is_weighed_as_in_one_forward_pass(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    loaded = Loaded(tiny_model("qwen2", seed=4), tiny_tokenizer, "tiny")
    said = [(QUESTION, "", "Qi"), ("Who?", "", "Jack Ma, the second"), (QUESTION, STATEMENT, "Al")]
    with Model(loaded, tmp_path / "memory", solver="paper") as model:
        heard = hear(model, said)
    for (query, told, answer), found in zip(said, heard, strict=True):
        chance, predicted = by_hand(loaded, told or None, query, answer)
        assert found is not None
        assert found.probability == pytest.approx(chance, rel=1e-4)
        assert list(found.predicted) == predicted
        assert loaded.tokenizer.decode(found.target) == answer


def test_gated_facts_act_on_what_is_weighed(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate_on_little(monkeypatch)
    with Model(loaded, tmp_path / "memory", layer=3, solver="gated") as model:
        answer = model.ask(QUESTION, STATEMENT)
        (before,) = hear(model, [(QUESTION, "", answer)])
        (told,) = hear(model, [(QUESTION, STATEMENT, answer)])
        assert model.learn(STATEMENT, QUESTION, answer).verified
        after, beside = hear(model, [(QUESTION, "", answer), (OTHERS[3], "", answer)])
        model.forget_all()
        (untold,) = hear(model, [(OTHERS[3], "", answer)])
    assert before and told and after and beside and untold
    assert after.predicted == after.target == told.target != before.predicted
    assert after.probability > 1.5 * before.probability
    assert beside.predicted == untold.predicted
    assert beside.probability == pytest.approx(untold.probability, rel=1e-4)


def test_what_cannot_be_weighed_is_none(loaded: Loaded, tmp_path: Path) -> None:
    said = [(QUESTION, "", "<|im_end|>"), (QUESTION, "", "A " * 600), (QUESTION, "", "A")]
    with Model(loaded, tmp_path / "memory", solver="paper") as model:
        heard = hear(model, said)
    assert heard[:2] == [None, None] and heard[2] is not None


class Fixed:
    """Stands for a model whose probabilities of answers are a table; unknown answers have none."""

    def __init__(self, table: dict[Said, tuple[float, str, str]]) -> None:
        self.table = table

    def hear(self, _: object, said: Sequence[Said]) -> list[Heard | None]:
        return [self.one(each) for each in said]

    def one(self, said: Said) -> Heard | None:
        if said not in self.table:
            return None
        chance, predicted, target = self.table[said]
        return Heard(chance, tuple(map(ord, predicted)), tuple(map(ord, target)))


def test_the_figures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    edits = [
        edit(query="a", rewordings=("a1", "a2"), locality=(("n", "true"), ("unknown", None))),
        edit(query="b", old="", rewordings=("b1",)),  # what was said before stands for the true one
        edit(query="c", old=""),  # which says the target already: nothing to compare
    ]
    model = Fixed(
        {
            ("a", "", "new"): (0.9, "new", "new"),
            ("a", "", "true"): (0.1, "trap", "true"),
            ("a1", "", "new"): (0.5, "nnn", "new"),  # one of three tokens
            ("a1", "", "true"): (0.3, "true", "true"),
            ("a2", "", "new"): (0.1, "xxx", "new"),
            ("a2", "", "true"): (0.4, "true", "true"),
            ("n", "", "new"): (0.2, "new", "new"),
            ("n", "", "true"): (0.7, "true", "true"),
            ("b", "", "new"): (0.2, "nex", "new"),
            ("b", "", "I do not know."): (0.6, "?", "?"),
            ("b1", "", "new"): (0.8, "new", "new"),
            ("b1", "", "I do not know."): (0.1, "?", "?"),
            ("c", "", "new"): (1.0, "new", "new"),
            ("beside", "", "yes"): (0.5, "yet", "yes"),
        }
    )
    monkeypatch.setattr(published, "hear", model.hear)
    was = Untaught(["x", "I do not know.", "It is new."], [Heard(0.9, (121, 101, 115), ())])
    found = scores(model, edits, [("beside", "", "yes")], was, ["one two three four", "a a a a"])  # type: ignore[arg-type]
    assert found == pytest.approx(
        {
            "ES": 1 / 2,
            "EM": (0.8 - 0.4) / 2,
            "PS": (1 / 2 + 1) / 2,
            "PM": ((0.2 - 0.3) / 2 + 0.7) / 2,
            "NS": 1.0,
            "NM": 0.5,
            "S": 3 / (1 / 0.5 + 1 / 0.75 + 1 / 1),
            "token_efficacy": (1 + 2 / 3 + 1) / 3,
            "token_paraphrase": ((1 / 3 + 0) / 2 + 1) / 2,
            "token_locality": 2 / 3,
            "fluency": (2 / 3 * math.log2(3) + 4 / 3 * 1) / 4,
        }
    )
    assert tuple(found) == NAMES


def test_an_evaluation_tells_them(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(material, "AROUND", 4)
    found = evaluate(
        loaded, prepare("generated", 2), ("none", "prompt", "paper"), Settings(layer=3)
    )
    none, prompt, paper = (found.methods[m] for m in ("none", "prompt", "paper"))
    for figures in (none, prompt, paper):
        assert {*NAMES} <= {*figures}
        assert figures["NS"] is figures["S"] is None  # made-up facts have no neighbours
    assert none["token_locality"] == 100.0 and none["ES"] == 0.0  # it said what is likeliest
    assert paper["EM"] != none["EM"]  # what paper taught is weighed
    assert prompt["EM"] != none["EM"]


# Published files, from end to end, with a model of random weights


ZSRE = [
    {
        "subject": subject,
        "src": f"Who made {subject}?",
        "rephrase": f"By whom was {subject} made?",
        "alt": "Qi",
        "answers": ["Jack Ma"],
        "loc": "nq question: where is Oxinnovate located",
        "loc_ans": "Paris",
    }
    for subject in ("Alibaba", "Oxinnovate")
]


@pytest.mark.parametrize("name", ["counterfact.json", "qaedit.json", "zsre.json"])
def test_each_format_from_end_to_end(
    name: str, tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate_on_little(monkeypatch)
    monkeypatch.setattr("qf.evaluate.run.REWORDINGS", 0)
    if name == "zsre.json":
        path = tmp_path / name
        path.write_text(json.dumps(ZSRE))
    else:
        path = published_file(name)
    loaded = Loaded(tiny_model("qwen2", seed=4), tiny_tokenizer, "tiny")
    weights = {k: w.clone() for k, w in loaded.transformer.state_dict().items()}
    journal = Journal(tmp_path / "out.jsonl")
    methods = ("none", "paper", "gated")
    found = evaluate(loaded, prepare(str(path), 1), methods, Settings(layer=3), journal)
    assert found.facts == 1 and [line["method"] for line in journal.lines] == [*methods]
    for method, figures in found.methods.items():
        assert {"efficacy", "retained", "paraphrase", "locality", "score", *NAMES} <= {*figures}
        for figure in ("token_efficacy", "token_paraphrase", "token_locality"):
            assert 0 <= (figures[figure] or 0.0) <= 100.0, (method, figure)
        assert all(figures[figure] is not None for figure in ("ES", "PS", "NS", "S"))
    assert found.methods["none"]["locality"] == found.methods["none"]["token_locality"] == 100.0
    assert found.methods["paper"]["EM"] > found.methods["none"]["EM"]  # type: ignore[operator]
    for key, weight in loaded.transformer.state_dict().items():
        assert torch.equal(weight, weights[key]), key
