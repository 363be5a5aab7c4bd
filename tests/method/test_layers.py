"""Which layer to teach: the sweep finds it, and leaves the model as it was."""

from statistics import harmonic_mean
from typing import Any

import pytest
import torch

from qf.families import family_of
from qf.lesson import Lesson
from qf.method.layers import LayerScore, Probe, best, default_layer, sweep, sweeping
from qf.method.probes import KNOWN, PROBES

LESSONS = (
    ("Qi started Oxinnovate.", "Who started Oxinnovate?"),
    ("The code is 7.", "What is the code?"),
    ("In 1990.", "When was it?"),
)


def score(
    layer: int = 0, same: float = 1, other: float = 1, kept: float = 1, p: float = 0.5
) -> Any:
    return LayerScore(layer, same, other, kept, p, 0.1)


def greedy(model: Any, tokenizer: Any, query: str, told: str = "") -> str:
    """The answer by one forward pass per token, with neither cache nor `generate`."""
    turns = [{"role": "system", "content": told}, {"role": "user", "content": query}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    said: list[int] = []
    while len(said) < 60:
        with torch.no_grad():
            said.append(int(model(torch.tensor([ids + said])).logits[0, -1].argmax()))
        if said[-1] == tokenizer.eos_token_id:
            break
    return tokenizer.decode(said, skip_special_tokens=True)


@pytest.fixture
def taught(speaker: Any) -> Any:
    """A model, its tokenizer, and probes that ask for what it says when it is told."""
    model, tokenizer = speaker()
    probes = [
        Probe(Lesson(told, query, greedy(model, tokenizer, query, told), None), (query,))
        for told, query in LESSONS
    ]
    return model, tokenizer, probes


@pytest.mark.parametrize(("layers", "layer"), [(28, 23), (6, 5), (1, 0), (2, 1), (24, 20)])
def test_the_default_is_as_deep_as_the_papers(layers: int, layer: int) -> None:
    assert default_layer(layers) == layer


def test_the_score_is_the_harmonic_mean() -> None:
    assert score(same=0.9, other=0.5, kept=0.7).score == pytest.approx(
        harmonic_mean([0.9, 0.5, 0.7])
    )
    for name in ("same", "other", "kept"):
        assert score(**{name: 0}).score == 0


def test_the_best_has_the_highest_score_and_then_the_surest_answers() -> None:
    assert best([score(0, same=0.5), score(1), score(2, kept=0.9)]).layer == 1
    assert best([score(0, p=0.2), score(1, p=0.9), score(2, p=0.3)]).layer == 1


def test_the_last_layer_can_be_taught_whatever_it_is_told(taught: Any) -> None:
    model, tokenizer, probes = taught
    seen: list[LayerScore] = []
    scores = sweep(model, family_of(model), tokenizer, probes, [], on_layer=seen.append)
    assert [s.layer for s in scores] == [0, 1, 2, 3] and seen == scores
    assert scores[3].same == scores[3].other == scores[3].kept == 1
    assert scores[0].same < 1 and best(scores) == scores[3]
    assert all(s.change > 0 and 0 < s.probability <= 1 for s in scores)


def test_a_layer_scores_what_its_taught_model_answers(taught: Any) -> None:
    """Teach by hand, in float64, and generate: the sweep's shares must come out."""
    model, tokenizer, probes = taught
    probes = [Probe(probe.lesson, (f"Hello! {probe.lesson.query}", "So?")) for probe in probes]
    known = [(query, greedy(model, tokenizer, query)) for query in ("Who?", "Where is it?", "Ann?")]
    scores = sweep(model, family_of(model), tokenizer, probes, known)
    for layer in (1, 3):
        weight = model.model.layers[layer].mlp.down_proj.weight
        W = weight.detach().clone()
        same, other, kept = [], [], []
        for probe in probes:
            lesson = probe.lesson
            found = [
                by_hand(model, tokenizer, layer, lesson.query, lesson.answer, told)
                for told in (lesson.instruction, "")
            ]
            (_, y), (u_closed, y_closed) = found
            weight.data = W + ((y - y_closed).T @ torch.linalg.pinv(u_closed).T).float()
            same.append(greedy(model, tokenizer, lesson.query) == lesson.answer)
            other += [greedy(model, tokenizer, q) == lesson.answer for q in probe.rewordings]
            kept += [greedy(model, tokenizer, q) == a for q, a in known]
            weight.data = W
        assert scores[layer].same == pytest.approx(sum(same) / len(same))
        assert scores[layer].other == pytest.approx(sum(other) / len(other))
        assert scores[layer].kept == pytest.approx(sum(kept) / len(kept))
    assert scores[3].other < scores[3].same == 1


def by_hand(model: Any, tokenizer: Any, layer: int, query: str, answer: str, told: str) -> Any:
    """Return u: (T, D) and y: (T, N) in float64 where the answer and the turn's end are said."""
    turns = [{"role": "system", "content": told}, {"role": "user", "content": query}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids, said = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (prompt, answer))
    block, kept = model.model.layers[layer], {}
    hooks = [
        block.mlp.down_proj.register_forward_hook(lambda _, x, __: kept.update(u=x[0][0])),
        block.register_forward_hook(lambda _, __, y: kept.update(y=y[0] if y.ndim == 3 else y)),
    ]
    with torch.no_grad():
        model(torch.tensor([ids + said]))
    for hook in hooks:
        hook.remove()
    return kept["u"][len(ids) - 1 :].double(), kept["y"][len(ids) - 1 :].double()


def test_only_what_was_known_before_counts_as_kept(taught: Any) -> None:
    model, tokenizer, probes = taught
    nonsense = [("Who?", "qi"), ("Where?", "oxinnovate")]  # it knows capital letters only
    (alone,) = sweep(model, family_of(model), tokenizer, probes, [], layers=[3])
    (beside,) = sweep(model, family_of(model), tokenizer, probes, nonsense, layers=[3])
    assert alone == beside


def test_the_weights_are_left_as_they_were(taught: Any) -> None:
    model, tokenizer, probes = taught
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pointers = {name: p.data_ptr() for name, p in model.named_parameters()}

    def interrupt(_: LayerScore) -> None:
        raise KeyboardInterrupt

    sweep(model, family_of(model), tokenizer, probes, [], layers=[1, 2])
    with pytest.raises(KeyboardInterrupt):
        sweep(model, family_of(model), tokenizer, probes, [], on_layer=interrupt)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == pointers


def test_a_sweep_in_pieces_leaves_the_weights_after_each(taught: Any) -> None:
    model, tokenizer, probes = taught
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    where = model, family_of(model), tokenizer, probes, [("Who?", "Qi.")]
    scores = []
    for score in sweeping(*where, layers=[1, 3]):
        assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
        scores.append(score)
    a_layer = [None] * len(probes)
    assert scores == [*a_layer, scores[3], *a_layer, scores[7]]
    assert [scores[3], scores[7]] == sweep(*where, layers=[1, 3])


def test_an_interrupted_trial_leaves_the_weights(
    taught: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qf.method.layers

    model, tokenizer, probes = taught
    W = model.model.layers[2].mlp.down_proj.weight
    before = W.detach().clone()
    original, calls = qf.method.layers._answered, []

    def fail_second(*args: Any) -> Any:
        calls.append(W.detach().clone())
        if len(calls) > 1:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(qf.method.layers, "_answered", fail_second)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, family_of(model), tokenizer, probes, [], layers=[2])
    assert not torch.equal(calls[1], before) and torch.equal(W, before)


def test_probes_are_lessons_that_can_be_told_apart() -> None:
    assert len(PROBES) == 8
    for probe in PROBES:
        questions = [probe.lesson.query, *probe.rewordings]
        assert len(set(questions)) == len(questions) >= 4
    queries = [query for query, _ in KNOWN]
    assert len(set(queries)) == len(queries) >= 10
    assert not {query for query, _ in KNOWN} & {probe.lesson.query for probe in PROBES}
