"""Which models are taken and which refused, by name and reason; places within a model."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Qwen2Config, Qwen2Model

import qf.families
from qf.errors import ModelError
from qf.families import REFUSED, SUPPORTED, family_of
from qf.families.base import Family
from qf.lesson import AlignedTokens
from qf.method import passes
from tests.architectures import ARCHITECTURES

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "initializer_range": 0.3,
}


def built(model_type, dtype=torch.float32, **more):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = CONFIG_MAPPING[model_type](**SMALL | more)
        return AutoModelForCausalLM.from_config(config).eval().to(dtype)


# The files in families/ that are no family's own, beside those in bases/.
COMMON = {"__init__", "base", "placement", "probe", "refused"}


def test_a_family_is_one_file_of_thirty_lines():
    files = {f.stem: f for f in Path(qf.families.__file__).parent.glob("*.py")}
    assert files.keys() >= COMMON
    own = {import_module(f"qf.families.{name}").FAMILY.name for name in files.keys() - COMMON}
    assert own == set(SUPPORTED) and len(own) == len(files.keys() - COMMON)
    for name in files.keys() - COMMON:
        assert len(files[name].read_text(encoding="utf-8").splitlines()) <= 30, name


def hooks_of(model):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_a_family_is_found_by_the_model_type(tiny_model, architecture):
    model = tiny_model(architecture)
    model_type = model.config.get_text_config().model_type
    assert family_of(model).name == model_type == ARCHITECTURES[architecture][0]
    assert all(name == family.name for name, family in SUPPORTED.items())


def test_the_layers_are_all_of_them_in_order(tiny_model, architecture):
    model = tiny_model(architecture)
    family, stack = family_of(model), family_of(model).layers(model)
    assert len(stack) == model.config.get_text_config().num_hidden_layers == 4
    ran = []
    for index, layer in enumerate(stack):
        assert family.layer(model, index) is layer
        layer.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    with torch.no_grad():
        model(input_ids=torch.arange(3, 9)[None])
    assert ran == [0, 1, 2, 3]


def test_a_model_without_its_vocabulary_head_has_the_same_layers(tiny_model, architecture):
    model = tiny_model(architecture)
    family = family_of(model)
    assert family_of(model.base_model) is family
    assert family.layers(model.base_model) is family.layers(model)


def test_layers_without_experts_lie_beside_those_with_them(tiny_model):
    model = tiny_model("deepseek_v3")
    family = family_of(model)
    widths = [family.shape(family.projection(layer))[1] for layer in family.layers(model)]
    assert family.projection(family.layer(model, 0)) is model.model.layers[0].mlp.down_proj
    assert widths == [96] * 4 and not hasattr(model.model.layers[0].mlp, "experts")
    sequences = [AlignedTokens((4, 5, 6, 7, 8), 2, (1.0,) * 3)]
    caught = []
    model.model.layers[0].register_forward_hook(lambda _m, _i, y: caught.append(y[0, 1:4]))
    (found,) = passes.record(model, family, 0, sequences, pad_id=0, logits=True)
    assert torch.allclose(found.y.float(), caught[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("index", [-1, 4, 40])
def test_a_layer_out_of_range_is_refused_with_the_range(tiny_model, index):
    model = tiny_model()
    with pytest.raises(ModelError, match=rf"Layer {index} is out of range: .* from 0 to 3"):
        family_of(model).layer(model, index)


def test_the_weight_is_a_view_and_what_is_put_is_used(tiny_model, architecture):
    model = tiny_model(architecture)
    family = family_of(model)
    projection = family.projection(family.layer(model, 1))
    W = family.weight(projection)
    out = model.config.get_text_config().hidden_size
    assert W.shape[0] == out and W.data_ptr() == projection.weight.data_ptr()
    other = torch.randn_like(W)
    family.put(projection, other)
    assert family.weight(projection).data_ptr() == other.data_ptr()
    u, b = torch.randn(3, W.shape[1]), projection.bias
    expected = u @ other.T + (0 if b is None else b)
    assert torch.allclose(projection(u), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "more", "why"),
    [
        ("qwen3_moe", {"num_experts": 2, "num_experts_per_tok": 1}, "no expert in common"),
        ("mixtral", {"num_local_experts": 2}, "no expert in common"),
        (
            "granitemoeshared",
            {"num_local_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 0},
            "no expert in common, so that no single W gives a layer's output"
            " (shared_intermediate_size is 0)",
        ),
        ("mamba", {}, "a state from token to token"),
        ("opt", {"do_layer_norm_before": False, "ffn_dim": 24}, "do_layer_norm_before"),
        (
            "bloom",
            {"apply_residual_connection_post_layernorm": True},
            "apply_residual_connection_post_layernorm",
        ),
        ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, "slow_but_exact"),
        # No file of their own, and refused for what a pass shows.
        ("glm4", {"head_dim": 8}, "the output of its layer 0 is not W u + v"),
        ("vaultgemma", {}, "no mlp.down_proj and post_attention_layernorm"),
    ],
)
def test_an_architecture_is_refused_by_name_and_reason_with_those_supported(model_type, more, why):
    model = built(model_type, **more)
    with pytest.raises(ModelError) as error:
        family_of(model)
    assert f"'{model_type}'" in str(error.value) and why in str(error.value)
    for supported in SUPPORTED:
        assert supported in str(error.value)
    assert not any(hooks_of(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["olmo", "seed_oss", "arcee", "glm"])
def test_an_unknown_type_that_is_built_like_llama_is_taken(model_type, dtype):
    assert model_type not in SUPPORTED and model_type not in REFUSED
    model = built(model_type, dtype)
    family = family_of(model)
    assert family == Family(model_type, packed=False)
    assert family_of(model.base_model) == family
    assert not any(hooks_of(model))
    sequences = [AlignedTokens((4, 5, 6, 7, 8), 2, (1.0,) * 3)] * 2
    one, two = passes.record(model, family, 1, sequences, pad_id=0, logits=True)
    assert torch.equal(one.y, two.y) and one.y.shape == (3, 16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("model_type", "like", "more"),
    [
        ("gpt_bigcode", "gpt2", {"n_inner": 24}),  # whose W is stored as it is: no Conv1D
        ("biogpt", "opt", {}),
        ("codegen", "gptj", {"n_inner": 24, "num_attention_heads": 4, "rotary_dim": 4}),
        ("exaone4", "olmo2", {"sliding_window": None, "layer_types": ["full_attention"] * 2}),
    ],
)
def test_an_unknown_type_is_taken_for_the_listed_one_that_it_is_built_like(
    model_type, like, more, dtype
):
    assert model_type not in SUPPORTED and model_type not in REFUSED
    model = built(model_type, dtype, **more)
    family = family_of(model)
    assert family == replace(SUPPORTED[like], name=model_type, examples=(), packed=False)
    assert not any(hooks_of(model))

    seen, layer = {}, family.layer(model, 1)
    layer.register_forward_hook(
        lambda _m, _i, y: seen.update(y=y[0] if isinstance(y, tuple) else y)
    )
    sequence = AlignedTokens((4, 5, 6, 7, 8), 2, (1.0,) * 3)
    (found,) = passes.record(model, family, 1, [sequence], pad_id=0, logits=True)
    assert family.shape(family.projection(layer)) == (16, 24)
    error = (found.y - seen["y"].flatten(0, -2)[1:4]).norm() / found.y.norm()
    assert error < 2 * torch.finfo(dtype).eps


def scaled(output):
    output.logits = output.logits / 3
    return output


def in_front(module, change):
    module.register_forward_pre_hook(lambda _, x: (change(x[0]),))


def behind(module, change):
    module.register_forward_hook(lambda _m, _i, out: change(out))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: behind(m.model.layers[1], lambda y: 1.1 * y), "output of its layer 1"),
        (lambda m: behind(m.model.layers[0].mlp, lambda z: z / 2), "output of its layer 0"),
        (lambda m: behind(m.model.layers[1].mlp, torch.tanh), "output of its layer 1"),
        (lambda m: behind(m, scaled), "logits"),
        (lambda m: setattr(m.model.layers[1], "mlp", nn.Identity()), "no mlp.down_proj"),
        (lambda m: in_front(m.model.embed_tokens, lambda x: x / 0), "does not run"),
    ],
)
def test_an_unknown_type_is_refused_for_what_it_does_otherwise(change, why, dtype):
    model = built("olmo", dtype)
    change(model)
    hooks = hooks_of(model)
    with pytest.raises(ModelError, match=why):
        family_of(model)
    assert hooks_of(model) == hooks


@pytest.mark.parametrize("name", ["qwen2", "olmo"])
def test_a_projection_with_an_adapter_around_it_is_refused(name):
    model = Qwen2Model(Qwen2Config(**SMALL)) if name == "qwen2" else built(name).model
    layer = model.layers[0]
    layer.mlp.down_proj = nn.Sequential(layer.mlp.down_proj)
    with pytest.raises(ModelError, match="without adapters"):
        family_of(model).projection(layer)


def test_weights_of_integers_are_told_from_those_that_can_be_written():
    model = Qwen2Model(Qwen2Config(**SMALL))
    family, layer = family_of(model), model.layers[0]
    assert family.unwritable(model, family.projection(layer)) == ""
    layer.mlp.down_proj.weight = nn.Parameter(
        torch.zeros(16, 24, dtype=torch.int8), requires_grad=False
    )
    assert family.unwritable(model, family.projection(layer)) == "quantised, Linear of int8"
