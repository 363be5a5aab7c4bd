"""Each family's places, found by running the layer; other architectures are refused by name."""

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from qf.errors import ModelError
from qf.families import SUPPORTED, family_of


def test_the_supported_families_are_those_that_the_tests_run_on():
    assert set(SUPPORTED) == {"qwen2", "qwen3", "llama", "mistral"}
    assert all(name == family.name for name, family in SUPPORTED.items())


def test_a_layer_is_its_projection_and_its_residual(tiny_model, kind):
    """y = W u + v, with each part caught where the family says that it is."""
    model = tiny_model(kind)
    family = family_of(model)
    layer = family.layers(model)[1]
    found = {}

    def keep(name, value):
        found[name] = value

    family.residual_point(layer).register_forward_pre_hook(lambda _, x: keep("v", x[0]))
    family.projection(layer).register_forward_pre_hook(lambda _, x: keep("u", x[0]))
    layer.register_forward_hook(lambda _m, _i, output: keep("y", output))
    with torch.no_grad():
        model(input_ids=torch.arange(3, 12)[None], use_cache=False)
    assert family.name == kind
    expected = found["u"] @ family.projection(layer).weight.T + found["v"]
    assert torch.allclose(found["y"], expected, rtol=1e-5, atol=1e-5)


def test_the_layers_are_all_of_them_in_order(tiny_model, kind):
    model = tiny_model(kind)
    family = family_of(model)
    assert list(family.layers(model)) == list(model.model.layers)
    assert family.layer(model, 3) is model.model.layers[3]


def test_a_model_without_its_vocabulary_head_has_the_same_layers(tiny_model, kind):
    model = tiny_model(kind)
    assert family_of(model.model) is family_of(model)
    assert family_of(model).layers(model.model) is family_of(model).layers(model)


@pytest.mark.parametrize("index", [-1, 4, 40])
def test_a_layer_out_of_range_is_refused_with_the_range(tiny_model, index):
    model = tiny_model()
    with pytest.raises(ModelError, match=rf"Layer {index} is out of range: .* from 0 to 3"):
        family_of(model).layer(model, index)


SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32}


@pytest.mark.parametrize(
    ("name", "build"),
    [
        (
            "gpt2",
            lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32)),
        ),
        (
            "qwen3_moe",
            lambda: Qwen3MoeForCausalLM(
                Qwen3MoeConfig(**SMALL, num_hidden_layers=1, num_experts=2, num_experts_per_tok=1)
            ),
        ),
    ],
)
def test_an_unsupported_architecture_is_refused_by_name_with_those_supported(name, build):
    with pytest.raises(ModelError) as error:
        family_of(build())
    assert f"'{name}'" in str(error.value)
    for supported in SUPPORTED:
        assert supported in str(error.value)


@pytest.mark.parametrize("replace", ["adapter", "integers"])
def test_a_projection_that_is_no_plain_linear_layer_is_refused(replace):
    model = Qwen2Model(Qwen2Config(**SMALL, intermediate_size=24, num_hidden_layers=1))
    layer = model.layers[0]
    if replace == "adapter":
        layer.mlp.down_proj = nn.Sequential(layer.mlp.down_proj)
    else:
        layer.mlp.down_proj.weight = nn.Parameter(
            torch.zeros(16, 24, dtype=torch.int8), requires_grad=False
        )
    with pytest.raises(ModelError, match="unquantised and without adapters"):
        family_of(model).projection(layer)
