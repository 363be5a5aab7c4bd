"""Every family on random models: y = W u + v, Eq. 3, forgetting, packing, and the gated form.

The reference knows by itself where each model type keeps W and reads everything else off what goes
into W and what comes out of the layer.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import qf.calibrator
from qf.families import REFUSED, SUPPORTED, family_of
from qf.lesson import Lesson, pair
from qf.loading import Loaded
from qf.method import passes, solve
from qf.method.readout import Recorded
from qf.model import Model
from qf.paraphrases import paraphrases
from qf.recall import Asked, Found, Recall
from tests import samples
from tests.architectures import ARCHITECTURES

LAYER = 2
LESSON = Lesson("Qi started Oxinnovate.", "Who started Oxinnovate?", "It was Qi.", None)
NORMED = {"gemma2", "gemma3", "olmo2", "olmo3"}
EXACT = [a for a in ARCHITECTURES if a not in NORMED]

# model type: where W is in a layer; the others, and layers without experts, have mlp.down_proj
PLACES = {
    "bloom": "mlp.dense_4h_to_h",
    "deepseek_v2": "mlp.shared_experts.down_proj",
    "deepseek_v3": "mlp.shared_experts.down_proj",
    "dots1": "mlp.shared_experts.down_proj",
    "ernie4_5_moe": "mlp.shared_experts.down_proj",
    "falcon": "mlp.dense_4h_to_h",
    "glm4_moe": "mlp.shared_experts.down_proj",
    "gpt2": "mlp.c_proj",
    "gpt_neox": "mlp.dense_4h_to_h",
    "gptj": "mlp.fc_out",
    "granitemoehybrid": "shared_mlp.output_linear",
    "granitemoeshared": "shared_mlp.output_linear",
    "llama4_text": "feed_forward.shared_expert.down_proj",
    "opt": "fc2",
    "phi": "mlp.fc2",
    "qwen2_moe": "mlp.shared_expert.down_proj",
    "qwen3_next": "mlp.shared_expert.down_proj",
    "starcoder2": "mlp.c_proj",
}


def apart(x, y):
    return ((x.double() - y.double()).norm() / y.double().norm()).item()


def layers_of(model):
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4]
    assert len(stacks) == 1
    return stacks[0]


def projection(model):
    named = dict(layers_of(model)[LAYER].named_modules())
    return named.get(PLACES.get(model.config.model_type), named.get("mlp.down_proj"))


def weight(model):
    """W as (N, D), float64, a copy."""
    W = projection(model).weight.detach().clone().double()
    return W.T if model.config.model_type == "gpt2" else W


def divisor(model):
    """What y and v of a layer are divided by."""
    return model.config.residual_multiplier if model.config.model_type == "granite" else 1


def factor(model, ids):
    """What W u is multiplied by in the layer before it is added: (L, 1), or a number."""
    block, caught = layers_of(model)[LAYER], []
    if model.config.model_type.startswith("granitemoe"):
        return model.config.residual_multiplier
    if not any(name == "mlp.shared_expert_gate" for name, _ in block.named_modules()):
        return 1
    hook = block.post_attention_layernorm.register_forward_hook(
        lambda _m, _i, h: caught.append(h[0])
    )
    run(model, ids)
    hook.remove()
    logit = caught[0].double() @ block.mlp.shared_expert_gate.weight.detach().double().T
    return 1 / (1 + (-logit).exp())


def run(model, ids):
    with torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]), use_cache=False)


def observed(model, ids):
    """u, v and y of the layer: (L, any); y is what comes out of it, v is y but for the MLP.

    Of experts the MLP is the shared one. Of Granite, y and v over the multiplier.
    """
    caught, block = {}, layers_of(model)[LAYER]
    hooks = [
        projection(model).register_forward_hook(
            lambda _m, x, out: caught.update(u=x[0].clone(), z=out.clone())
        ),
        block.register_forward_hook(
            lambda _m, _i, out: caught.update(y=out[0] if isinstance(out, tuple) else out)
        ),
    ]
    if hasattr(block, "post_feedforward_layernorm"):
        hooks.append(
            block.post_feedforward_layernorm.register_forward_hook(
                lambda _m, _i, out: caught.update(z=out)
            )
        )
    run(model, ids)
    for hook in hooks:
        hook.remove()
    u, z, y = (caught[k].reshape(len(ids), -1).double() for k in "uzy")
    y = y / divisor(model)
    return u, y - factor(model, ids) * z, y


def at_answer(model, aligned):
    return [x[aligned.start - 1 : -1] for x in observed(model, aligned.input_ids)]


def multiplied(model, aligned):
    """u and v at the answer, u times the factor: s (W u) = W (s u), so that y = W (s u) + v."""
    u, v, _ = at_answer(model, aligned)
    s = factor(model, aligned.input_ids)
    return u * (s if isinstance(s, int | float) else s[aligned.start - 1 : -1]), v


def equation_3(W, opened, closed):
    """Eq. 3 in numpy, one column per token."""
    W, u, v, u_, v_ = (x.numpy() for x in (W, *map(torch.t, (*opened, *closed))))
    return torch.from_numpy(W - (W @ (u_ - u) + (v_ - v)) @ np.linalg.inv(u_.T @ u_) @ u_.T)


@pytest.fixture
def sequences(tiny_tokenizer):
    return pair(tiny_tokenizer, LESSON)


@pytest.fixture
def random_sequences():
    return samples.random_sequences()


def test_every_family_is_tested():
    assert {kind for kind, _ in ARCHITECTURES.values()} == set(SUPPORTED)
    assert {ARCHITECTURES[a][0] for a in NORMED} == {k for k, f in SUPPORTED.items() if f.limits}
    assert not set(SUPPORTED) & set(REFUSED)
    assert all(family.examples for family in SUPPORTED.values())


def test_what_is_recorded_is_the_layers_own(tiny_model, architecture, random_sequences):
    model = tiny_model(architecture)
    family = family_of(model)
    assert family is SUPPORTED[ARCHITECTURES[architecture][0]]
    for aligned in random_sequences:
        (one,) = passes.record(model, family, LAYER, [aligned], pad_id=0)
        u, v, y = at_answer(model, aligned)
        own = one.v[:, : v.shape[1]]  # s may come as one more column
        assert apart(one.u, u) < 1e-5 and apart(own, v) < 1e-5 and apart(one.y, y) < 1e-5


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_batching_changes_nothing(tiny_model, architecture, random_sequences, attention):
    model = tiny_model(architecture, attention=attention)
    family = family_of(model)
    together = passes.record(model, family, LAYER, random_sequences, pad_id=0, logits=True)
    for aligned, one in zip(random_sequences, together, strict=True):
        (alone,) = passes.record(model, family, LAYER, [aligned], pad_id=0, logits=True)
        for name in ("u", "v", "y", "probability"):
            assert apart(getattr(one, name), getattr(alone, name)) < 1e-5
        assert torch.equal(one.argmax, alone.argmax)

    spans = [(aligned.input_ids, (3, 9)) for aligned in random_sequences]
    means = passes.pooled(model, family, [1, LAYER], spans)
    for i, aligned in enumerate(random_sequences):
        u = observed(model, aligned.input_ids)[0][3:9]
        assert apart(means[1][i], u.mean(0)) < 1e-5


def test_probabilities_are_the_models_own(tiny_model, architecture, random_sequences):
    model = tiny_model(architecture)
    recorded = passes.record(
        model, family_of(model), LAYER, random_sequences, pad_id=0, logits=True
    )
    for aligned, one in zip(random_sequences, recorded, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([aligned.input_ids])).logits[0]
        chances = logits[aligned.start - 1 : -1].softmax(1)
        learned = torch.tensor(aligned.learned)
        assert apart(one.probability, chances[torch.arange(len(learned)), learned]) < 1e-4


@pytest.mark.parametrize("architecture", EXACT)
def test_taught_weights_are_equation_3(tiny_model, architecture, sequences):
    model = tiny_model(architecture)
    family, W = family_of(model), weight(model)
    opened, closed = (multiplied(model, aligned) for aligned in sequences)
    expected = equation_3(W, opened, closed)
    found = passes.rows(model, family, LAYER, *sequences, None, pad_id=0)
    base = family.weight(family.projection(family.layer(model, LAYER)))
    changed = solve.joint(found.keys, found.deltas).apply(base)
    assert apart(changed, expected) <= 1e-5
    assert apart(changed - base, expected - W) <= 1e-3
    assert torch.equal(weight(model), W)


@pytest.fixture
def taught(speaker, tmp_path):
    """Build `taught(architecture, **options)`: the transformer and the Model that learns for it."""
    models = []

    def build(architecture, seed=5, **options):
        transformer, tokenizer = speaker(architecture, seed=seed)
        options = {"layer": LAYER, "solver": "paper", **options}
        loaded = Loaded(transformer, tokenizer, "speaker")
        models.append(Model(loaded, tmp_path / f"{architecture}-{seed}", **options))
        return transformer, models[-1]

    yield build
    for model in models:
        model.close()


def learn(model):
    return model.learn(
        LESSON.instruction, LESSON.query, LESSON.answer, None, rewordings=0, verify=False
    )


@pytest.mark.parametrize("architecture", EXACT)
def test_after_learning_the_closed_book_output_is_the_open_book_one(
    taught, architecture, sequences
):
    transformer, model = taught(architecture)
    opened, before = (at_answer(transformer, aligned)[2] for aligned in sequences)
    learn(model)
    after = at_answer(transformer, sequences[1])[2]
    assert apart(before, opened) > 0.01  # there was something to learn
    assert apart(after, opened) <= 1e-4


@pytest.mark.parametrize("architecture", sorted(NORMED))
def test_a_norm_after_the_mlp_lets_the_output_come_near(taught, architecture, sequences):
    """What the layer adds, g x with rms(x) = 1, is where nothing on that surface is nearer."""
    transformer, model = taught(architecture)
    opened, before = (at_answer(transformer, aligned)[2] for aligned in sequences)
    learn(model)
    _, v, after = at_answer(transformer, sequences[1])
    assert ((after - opened).norm(dim=1) < 0.9 * (before - opened).norm(dim=1)).all()

    norm = layers_of(transformer)[LAYER].post_feedforward_layernorm
    g = norm.weight.detach().double() + ("gemma" in architecture)
    x = (after - v) / g
    assert torch.allclose(x.square().mean(1), torch.ones(()).double(), rtol=1e-3)
    # The slope of the distance along the surface, over the slope across it.
    slope = g * (g * x - (opened - v))
    along = slope - (slope * x).sum(1, keepdim=True) / x.square().sum(1, keepdim=True) * x
    assert (along.norm(dim=1) < 1e-3 * slope.norm(dim=1)).all()


def test_forgetting_restores_every_bit(taught, architecture):
    transformer, model = taught(architecture)
    before = {name: (p.clone(), p.stride()) for name, p in transformer.state_dict().items()}
    fact = learn(model)
    assert not torch.equal(weight(transformer), weight_in(before, transformer))
    model.forget(fact.id)
    after = transformer.state_dict()
    assert after.keys() == before.keys()
    for name, (p, stride) in before.items():
        assert torch.equal(after[name], p) and after[name].stride() == stride


def weight_in(state, model):
    (name,) = (n for n, p in model.named_parameters() if p is projection(model).weight)
    W = state[name][0].double()
    return W.T if model.config.model_type == "gpt2" else W


def test_a_taught_model_is_saved_and_loaded_as_it_is(taught, architecture, tmp_path):
    transformer, model = taught(architecture)
    learn(model)
    transformer.save_pretrained(tmp_path / "saved")
    again = type(transformer).from_pretrained(
        tmp_path / "saved", attn_implementation=transformer.config._attn_implementation
    )
    assert torch.equal(weight(again.eval()), weight(transformer))


class Open:
    """A gate that lets every fact act whose subject is mentioned."""

    layer, threshold = 1, -1.0

    def address(self, pooled):
        return normalize(pooled.float(), dim=1)


def test_behind_a_gate_the_output_is_the_open_book_one(tiny_model, architecture, sequences):
    model = tiny_model(architecture)
    family = family_of(model)
    opened, closed = (at_answer(model, aligned)[2] for aligned in sequences)
    found = passes.rows(model, family, LAYER, *sequences, None, pad_id=0, free=True)
    recorded = Recorded(found.keys, found.outputs, found.significance)
    recall = Recall(Open())
    stored = Found(torch.ones(1, found.keys.shape[1]), recorded)
    recall.add("fact", [LESSON.query], lambda: stored)
    update = sequences[1]
    for t in range(len(opened)):
        ids = update.input_ids[: update.start + t]
        other = tuple(3 + (token + 7) % 300 for token in ids)
        asked = [Asked(other, "Where am I?", (2, 5)), Asked(ids, LESSON.query, (2, 5))]
        with recall.acting(model, family, LAYER, asked, len(ids)):
            strange, own = outputs(model, [other, ids])
        usual = outputs(model, [other, ids])
        assert apart(own[-1], opened[t]) <= 1e-5 and apart(closed[t], opened[t]) > 1e-3
        assert torch.equal(own[:-1], usual[1][:-1]) and torch.equal(strange, usual[0])


def outputs(model, batch):
    """y of the layer for each of the sequences of one length, as `observed` has it."""
    caught = {}
    hook = layers_of(model)[LAYER].register_forward_hook(
        lambda _m, _i, out: caught.update(y=out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model(input_ids=torch.tensor([list(ids) for ids in batch]), use_cache=False)
    hook.remove()
    return caught["y"] / divisor(model)


def test_a_gated_fact_is_answered(taught, architecture, monkeypatch):
    """Through `generate`, in a batch padded on the left, and in the weights no bit is changed."""
    monkeypatch.setattr(qf.calibrator, "paraphrases", lambda _: paraphrases(6))
    monkeypatch.setattr(qf.calibrator, "everyday", lambda _: ["Hello!"])
    for seed in range(80):  # not every random model hears what it is told, and ends its answer
        transformer, model = taught(architecture, seed=seed, layer=3, solver="gated")
        told = model.ask(LESSON.query, LESSON.instruction, max_tokens=10)
        if 1 < len(told) < 8 and told != model.ask(LESSON.query, max_tokens=10):
            break
    asked, W = ["Hello!", LESSON.query], weight(transformer)
    usual = model.ask_many(asked, max_tokens=10)
    fact = model.learn(LESSON.instruction, LESSON.query, rewordings=0)
    assert fact.verified and fact.after == fact.answer != usual[1]
    assert model.ask_many(asked, max_tokens=10) == [usual[0], fact.answer]
    assert torch.equal(weight(transformer), W)
