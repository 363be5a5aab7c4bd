"""The two passes against activations that Transformers reports, and Eq. 3 computed from those."""

import numpy as np
import pytest
import torch

from qf.chat import messages
from qf.errors import ModelError
from qf.families import family_of
from qf.lesson import AlignedTokens, Lesson, align, pair
from qf.method import passes, solve
from tests import samples

LAYER = 2
LESSON = Lesson(
    "Qi started Oxinnovate.", "Who started Oxinnovate?", "Oxinnovate was started by Qi."
)
LESSON_TEXTS = (LESSON.instruction, LESSON.query, LESSON.answer)


def apart(x, y):
    return ((x.double() - y.double()).norm() / y.double().norm()).item()


@pytest.fixture
def sequences(tiny_tokenizer):
    return pair(tiny_tokenizer, LESSON)


@pytest.fixture
def pad_id(tiny_tokenizer):
    return tiny_tokenizer.pad_token_id


@pytest.fixture
def random_sequences():
    return samples.random_sequences()


# An independent reference: one sequence at a time, no padding, no mask, no qf.


def observed(model, aligned, layer=LAYER):
    """u, v and y of the layer, (T, ...) in float64, from the parts that Transformers hands out.

    v is the layer's input plus what the attention returned; y, except at the last layer, which
    Transformers reports after the last norm, is the reported hidden state.
    """
    caught = {}
    block = model.model.layers[layer]
    hooks = [
        block.self_attn.register_forward_hook(lambda _m, _i, out: caught.update(a=out[0])),
        block.mlp.act_fn.register_forward_hook(lambda _m, _i, out: caught.update(gate=out)),
        block.mlp.up_proj.register_forward_hook(lambda _m, _i, out: caught.update(up=out)),
    ]
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor([aligned.input_ids]), output_hidden_states=True, use_cache=False
        )
    for hook in hooks:
        hook.remove()
    at = slice(aligned.start - 1, len(aligned.input_ids) - 1)
    states = output.hidden_states
    u = (caught["gate"] * caught["up"])[0, at]
    v = (states[layer] + caught["a"])[0, at]
    return u.double(), v.double(), states[layer + 1][0, at].double(), output.logits[0, at].double()


def equation_3(W, opened, closed):
    """Eq. 3 in numpy, one column per token."""
    W, u, v, u_, v_ = (x.numpy() for x in (W.double(), *map(torch.t, (*opened, *closed))))
    changed = W - (W @ (u_ - u) + (v_ - v)) @ np.linalg.inv(u_.T @ u_) @ u_.T
    return torch.from_numpy(changed)


def projection(model, layer=LAYER):
    return model.model.layers[layer].mlp.down_proj


def test_what_is_recorded_is_what_transformers_computes(tiny_model, kind, random_sequences, pad_id):
    model = tiny_model(kind)
    family = family_of(model)
    for layer in (0, LAYER):
        recorded = passes.record(model, family, layer, random_sequences, pad_id=pad_id)
        for aligned, one in zip(random_sequences, recorded, strict=True):
            u, v, y, _ = observed(model, aligned, layer)
            assert one.u.dtype == one.v.dtype == torch.float32
            assert apart(one.u, u) < 1e-5 and apart(one.v, v) < 1e-5 and apart(one.y, y) < 1e-5
            assert one.probability is None and one.argmax is None


def test_taught_weights_are_equation_3_of_independent_activations(
    tiny_model, kind, sequences, pad_id
):
    model = tiny_model(kind, intermediate_size=128)
    (u, v, *_), (u_, v_, *_) = (observed(model, aligned) for aligned in sequences)
    W = projection(model).weight.detach()
    expected = equation_3(W, (u, v), (u_, v_))

    found = passes.rows(model, family_of(model), LAYER, *sequences, None, pad_id=pad_id)
    changed = solve.joint(found.keys, found.deltas).apply(W)
    assert changed.dtype == torch.float32
    assert apart(changed, expected) <= 1e-5
    assert apart(changed - W, expected - W) <= 1e-4  # and the change itself, not only the sum

    one, other = passes.record(model, family_of(model), LAYER, sequences, pad_id=pad_id)
    assert apart(solve.paper(W, one.u, one.v, other.u, other.v), expected) <= 1e-5


def test_after_teaching_the_closed_book_output_is_the_open_book_output(
    tiny_model, kind, sequences, pad_id
):
    model = tiny_model(kind, intermediate_size=128)
    opened = observed(model, sequences[0])[2]
    before = observed(model, sequences[1])[2]
    found = passes.rows(model, family_of(model), LAYER, *sequences, None, pad_id=pad_id)
    W = projection(model).weight
    with torch.no_grad():
        W.copy_(solve.joint(found.keys, found.deltas).apply(W))
    assert apart(before, opened) > 0.01  # there was something to learn
    assert apart(observed(model, sequences[1])[2], opened) <= 1e-4


def test_a_bias_of_the_projection_is_part_of_the_output_and_not_of_the_rows(
    tiny_model, sequences, pad_id
):
    model = tiny_model("llama", mlp_bias=True)
    family = family_of(model)
    recorded = passes.record(model, family, LAYER, sequences, pad_id=pad_id)
    outputs = [observed(model, aligned)[2] for aligned in sequences]
    assert all(apart(one.y, y) < 1e-5 for one, y in zip(recorded, outputs, strict=True))
    found = passes.rows(model, family, LAYER, *sequences, None, pad_id=pad_id)
    assert apart(found.deltas, outputs[0] - outputs[1]) < 1e-4


# Batching


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_batching_changes_nothing(tiny_model, kind, random_sequences, pad_id, attention):
    model = tiny_model(kind, attention=attention)
    family = family_of(model)
    together = passes.record(model, family, LAYER, random_sequences, pad_id=pad_id, logits=True)
    for aligned, one in zip(random_sequences, together, strict=True):
        (alone,) = passes.record(model, family, LAYER, [aligned], pad_id=pad_id, logits=True)
        for name in ("u", "v", "y", "probability"):
            assert apart(getattr(one, name), getattr(alone, name)) < 1e-5
        assert torch.equal(one.argmax, alone.argmax)


@pytest.mark.parametrize("config", [{"kind": "mistral", "sliding_window": 8}])
def test_a_sliding_window_slides_over_its_own_sequence_only(
    tiny_model, random_sequences, pad_id, config
):
    model, full = tiny_model(**config), tiny_model(config["kind"])
    recorded = passes.record(model, family_of(model), LAYER, random_sequences, pad_id=pad_id)
    for aligned, one in zip(random_sequences, recorded, strict=True):
        assert apart(one.y, observed(model, aligned)[2]) < 1e-5
        assert apart(one.y, observed(full, aligned)[2]) > 1e-3  # the window matters here


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_sequence_does_not_see_the_others(tiny_model, kind, random_sequences, pad_id, changed):
    model = tiny_model(kind)
    other = list(random_sequences)
    ids = tuple(3 + (token + 7) % 300 for token in other[changed].input_ids)
    other[changed] = AlignedTokens(ids, other[changed].start, other[changed].weights)
    before, after = (
        passes.record(model, family_of(model), LAYER, batch, pad_id=pad_id)
        for batch in (random_sequences, other)
    )
    for i, (one, two) in enumerate(zip(before, after, strict=True)):
        assert torch.equal(one.u, two.u) == torch.equal(one.v, two.v) == (i != changed)


def test_a_batch_of_lessons_gives_each_lesson_its_own_rows(tiny_model, tiny_tokenizer, pad_id):
    model = tiny_model()
    family = family_of(model)
    lessons = [
        LESSON,
        Lesson("The capital of France is Qi.", "What is it?", "Qi.", None),
        Lesson("Jack Ma started Alibaba.", "Who started Alibaba?", "It was Qi.", [0, 2, 1]),
    ]
    pairs = [pair(tiny_tokenizer, lesson) for lesson in lessons]
    chosen = [lesson.significance for lesson in lessons]
    together = passes.rows_batch(model, family, LAYER, pairs, chosen, pad_id=pad_id)
    for (instruct, update), significance, one in zip(pairs, chosen, together, strict=True):
        alone = passes.rows(model, family, LAYER, instruct, update, significance, pad_id=pad_id)
        assert one.tokens == alone.tokens
        assert torch.equal(one.significance, alone.significance)
        assert apart(one.keys, alone.keys) < 1e-5 and apart(one.deltas, alone.deltas) < 1e-4


# Rows


def test_rows_are_keys_and_differences_at_the_predicting_positions(tiny_model, sequences, pad_id):
    model = tiny_model()
    instruct, update = sequences
    found = passes.rows(model, family_of(model), LAYER, instruct, update, None, pad_id=pad_id)
    (_, _, opened, _), (u_, _, closed, _) = observed(model, instruct), observed(model, update)
    assert apart(found.keys, u_) < 1e-5
    assert apart(found.deltas, opened - closed) < 1e-4
    assert found.tokens == update.learned
    assert torch.equal(found.significance, torch.ones(len(update.learned)))
    assert {x.dtype for x in (found.keys, found.deltas, found.significance)} == {torch.float32}
    assert found.open_book_agrees is None


def test_a_listed_significance_drops_and_weighs_rows(tiny_model, tiny_tokenizer, pad_id):
    model = tiny_model()
    values = [0, 2, 0, 1, 3]
    lesson = Lesson(LESSON.instruction, LESSON.query, LESSON.answer, values)
    instruct, update = pair(tiny_tokenizer, lesson)
    family = family_of(model)
    plain = pair(tiny_tokenizer, Lesson(*LESSON_TEXTS, None))
    every = passes.rows(model, family, LAYER, *plain, None, pad_id=pad_id)
    found = passes.rows(model, family, LAYER, instruct, update, values, pad_id=pad_id)
    kept = torch.tensor(update.weights) > 0
    assert 0 < kept.sum() < len(kept)
    assert torch.equal(found.keys, every.keys[kept])
    assert torch.equal(found.deltas, every.deltas[kept])
    assert found.significance.tolist() == [w for w in update.weights if w]
    assert tiny_tokenizer.decode(found.tokens[:-1]) == " was by Qi."


def test_auto_keeps_the_tokens_that_the_closed_book_pass_finds_improbable(
    tiny_model, sequences, pad_id, monkeypatch
):
    model = tiny_model()
    instruct, update = sequences
    logits = observed(model, update)[3]
    probability = logits.softmax(1)[torch.arange(len(logits)), torch.tensor(update.learned)]
    monkeypatch.setattr(passes, "AUTO_BELOW", probability.median().item() * (1 + 1e-4))
    expected = probability < passes.AUTO_BELOW
    assert 0 < expected.sum() < len(expected)

    family = family_of(model)
    every = passes.rows(model, family, LAYER, instruct, update, None, pad_id=pad_id)
    found = passes.rows(model, family, LAYER, instruct, update, "auto", pad_id=pad_id)
    assert torch.allclose(found.keys, every.keys[expected])
    assert torch.equal(found.significance, torch.ones(int(expected.sum())))
    assert found.tokens == tuple(torch.tensor(update.learned)[expected].tolist())


def test_auto_keeps_nothing_when_everything_is_known(tiny_model, sequences, pad_id, monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(passes, "AUTO_BELOW", 0.0)
    found = passes.rows(model, family_of(model), LAYER, *sequences, "auto", pad_id=pad_id)
    assert found.keys.shape == (0, 96) and found.deltas.shape == (0, 32)
    assert found.tokens == () and len(found.significance) == 0


def test_auto_learns_what_has_less_than_nine_tenths():
    assert passes.AUTO_BELOW == 0.9


@pytest.mark.parametrize("block", [1, 4, 1000])
def test_probability_and_best_token_are_those_of_the_whole_logits(
    tiny_model, kind, random_sequences, pad_id, block, monkeypatch
):
    monkeypatch.setattr(passes, "BLOCK", block)
    model = tiny_model(kind)
    recorded = passes.record(
        model, family_of(model), LAYER, random_sequences, pad_id=pad_id, logits=True
    )
    for aligned, one in zip(random_sequences, recorded, strict=True):
        logits = observed(model, aligned)[3]
        learned = torch.tensor(aligned.learned)
        expected = logits.softmax(1)[torch.arange(len(logits)), learned]
        assert apart(one.probability, expected) < 1e-4
        assert torch.equal(one.argmax, logits.argmax(1))


def continued_by_itself(model, prompt, tokens):
    """The sequence in which the model itself chose each learned token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return AlignedTokens(tuple(ids), len(prompt), (1.0,) * tokens)


def test_open_book_agrees_only_if_the_open_book_pass_chooses_every_learned_token(
    tiny_model, pad_id
):
    model = tiny_model()
    opened = continued_by_itself(model, range(10, 30), 4)
    closed = AlignedTokens((*range(40, 50), *opened.learned), 10, opened.weights)
    other = (*opened.learned[:3], opened.learned[3] + 1)
    off = [
        AlignedTokens((*s.input_ids[: s.start], *other), s.start, s.weights)
        for s in (opened, closed)
    ]
    family = family_of(model)
    agrees, differs = (
        passes.rows(model, family, LAYER, *both, "auto", pad_id=pad_id)
        for both in ((opened, closed), off)
    )
    assert agrees.open_book_agrees is True
    assert differs.open_book_agrees is False


# The pass itself


def calls(model):
    """Count how often each layer, each layer's W, and the head run."""
    counts = {}

    def count(name):
        return lambda *_: counts.update({name: counts.get(name, 0) + 1})

    for i, block in enumerate(model.model.layers):
        block.register_forward_pre_hook(count(i))
        block.mlp.down_proj.register_forward_hook(count(f"W{i}"))
    model.lm_head.register_forward_pre_hook(count("head"))
    return counts


@pytest.mark.parametrize("significance", [None, [0, 1, 1, 1, 1]])
def test_one_pass_for_both_and_nothing_above_the_layer_runs(
    tiny_model, tiny_tokenizer, kind, significance, pad_id
):
    model = tiny_model(kind)
    both = pair(tiny_tokenizer, Lesson(*LESSON_TEXTS, significance))
    counts = calls(model)
    passes.rows(model, family_of(model), 1, *both, significance, pad_id=pad_id)
    assert counts == {0: 1, "W0": 1, 1: 1}


def test_auto_takes_one_pass_through_all_layers(tiny_model, sequences, pad_id):
    model = tiny_model()
    counts = calls(model)
    passes.rows(model, family_of(model), 1, *sequences, "auto", pad_id=pad_id)
    assert {i: counts[i] for i in range(4)} == dict.fromkeys(range(4), 1)


def hooks_of(model):
    return {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }


def outputs(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 20)[None], use_cache=False).logits


@pytest.mark.parametrize("logits", [False, True])
def test_a_pass_leaves_the_model_as_it_was(tiny_model, kind, sequences, pad_id, logits):
    model = tiny_model(kind)
    before, hooks = outputs(model), hooks_of(model)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    passes.record(model, family_of(model), LAYER, sequences, pad_id=pad_id, logits=logits)
    assert hooks_of(model) == hooks
    assert torch.equal(outputs(model), before)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("where", [0, LAYER, 3])
@pytest.mark.parametrize("failure", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_hooks_are_removed_when_the_pass_fails(tiny_model, sequences, pad_id, where, failure):
    model = tiny_model()
    before, hooks = outputs(model), hooks_of(model)

    def fail(*_):
        raise failure

    broken = model.model.layers[where].self_attn.register_forward_pre_hook(fail)
    with pytest.raises(type(failure)):
        passes.record(model, family_of(model), LAYER, sequences, pad_id=pad_id, logits=True)
    broken.remove()
    assert hooks_of(model) == hooks
    assert torch.equal(outputs(model), before)


def test_only_the_recorded_positions_are_kept(tiny_model, tiny_tokenizer, pad_id):
    model = tiny_model()
    long = align(tiny_tokenizer, messages("Who started Oxinnovate? " * 8), "Qi.", None)
    (one,) = passes.record(model, family_of(model), LAYER, [long], pad_id=pad_id)
    tokens = len(long.learned)
    for x, width in ((one.u, 96), (one.v, 32), (one.y, 32)):
        assert x.shape == (tokens, width)
        assert x.untyped_storage().nbytes() == tokens * width * x.element_size()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_small_differences_of_large_outputs_are_not_rounded(tiny_model, sequences, pad_id, dtype):
    """r is the exact difference of the outputs that the recorded u, v and W give."""
    model = tiny_model().to(dtype)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1e4)  # a residual that both passes share
    family = family_of(model)
    found = passes.rows(model, family, LAYER, *sequences, None, pad_id=pad_id)
    one, other = passes.record(model, family, LAYER, sequences, pad_id=pad_id)
    assert one.u.dtype == one.v.dtype == found.keys.dtype == found.deltas.dtype == torch.float32
    W = projection(model).weight.detach().double()
    expected = (one.u.double() - other.u.double()) @ W.T + (one.v.double() - other.v.double())
    assert apart(found.deltas, expected) < 1e-7


# Refusals


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_activations_that_are_not_finite_are_refused_with_the_layer(
    tiny_model, sequences, pad_id, bad
):
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3] = bad
    damaged = r"Layer 2 gives activations that are not finite: its weights may be damaged"
    with pytest.raises(ModelError, match=damaged):
        passes.rows(model, family_of(model), LAYER, *sequences, None, pad_id=pad_id)
    with pytest.raises(ModelError, match=r"Layer 2 .*: load the model in bfloat16 or float32"):
        passes.rows(model.half(), family_of(model), LAYER, *sequences, None, pad_id=pad_id)


def test_a_layer_out_of_range_is_refused_before_anything_runs(tiny_model, sequences, pad_id):
    model = tiny_model()
    counts = calls(model)
    with pytest.raises(ModelError, match="Layer 4 is out of range"):
        passes.rows(model, family_of(model), 4, *sequences, None, pad_id=pad_id)
    assert counts == {}


def test_a_model_without_vocabulary_head_records_but_knows_no_probabilities(
    tiny_model, sequences, pad_id
):
    model = tiny_model()
    family = family_of(model)
    whole = passes.rows(model, family, LAYER, *sequences, None, pad_id=pad_id)
    headless = passes.rows(model.model, family, LAYER, *sequences, None, pad_id=pad_id)
    assert torch.equal(headless.keys, whole.keys)
    with pytest.raises(ModelError, match="no vocabulary head"):
        passes.rows(model.model, family, LAYER, *sequences, "auto", pad_id=pad_id)
