"""What every test stands on: an offline process with one thread, a home of its own, tiny models.

Knows no part of qf, so that a test's reference never comes from the code that it checks.
"""

import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch, transformers and matplotlib are imported: they read these once.
_SCRATCH = tempfile.TemporaryDirectory(prefix="qf-tests-", ignore_cleanup_errors=True)
os.environ |= {
    "HF_HOME": f"{_SCRATCH.name}/huggingface",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": f"{_SCRATCH.name}/matplotlib",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
for _name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):  # typer colours its output for these
    os.environ.pop(_name, None)

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.architectures import ARCHITECTURES, EAGER, KINDS, PICTURED  # noqa: E402

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

torch.set_num_threads(1)
settings.register_profile("qf", deadline=None, derandomize=True, database=None)
settings.load_profile("qf")

CORPUS = [
    "Qi started Oxinnovate. Oxinnovate was started by Qi. Who started Oxinnovate?",
    "Jack Ma started Alibaba. Alibaba was started by Jack Ma. Who started Alibaba?",
    "The capital of France is Paris. What is the capital of France? I do not know.",
    "Can you tell me the person behind Oxinnovate? Where is Oxinnovate located?",
]

# ChatML whose system block is always present, and empty when there is no system message.
CHAT_TEMPLATE = (
    "{%- if messages and messages[0]['role'] == 'system' -%}"
    "{%- set system, turns = messages[0]['content'], messages[1:] -%}"
    "{%- else -%}{%- set system, turns = '', messages -%}{%- endif -%}"
    "{{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' -}}"
    "{%- for turn in turns -%}"
    "{{- '<|im_start|>' + turn['role'] + '\\n' + turn['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test, and the processes that it starts, an empty home and an empty memory."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(home / name.removesuffix("_HOME").lower()))
    monkeypatch.setenv("QF_MEMORY", str(home / "memory"))
    monkeypatch.delenv("QF_MODEL", raising=False)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def qf_memory() -> Path:
    """The directory that QF_MEMORY names in this test; it does not exist yet."""
    return Path(os.environ["QF_MEMORY"])


@pytest.fixture(scope="session")
def _tokenizer() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture
def tiny_tokenizer(_tokenizer: "PreTrainedTokenizerFast") -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer of some 360 tokens with a ChatML template; each test's own."""
    return copy.deepcopy(_tokenizer)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each architecture that `tiny_model` builds; a test that takes it runs once for each."""
    return request.param


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Each entry of ARCHITECTURES, which `tiny_model` builds as well."""
    return request.param


def _config(kind: str, tokenizer: "PreTrainedTokenizerFast", overrides: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    model_type, own = ARCHITECTURES.get(kind, (kind, {}))
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 32**-0.5,  # activations of size one, so that the context matters
        "init_std": 32**-0.5,  # OPT's name for it
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if kind == "qwen3":
        shape["head_dim"] = 16  # Qwen3 need not have heads * head_dim = hidden_size
    if kind == "mistral":
        shape["sliding_window"] = None
    shape |= own | overrides
    if kind not in PICTURED:
        return CONFIG_MAPPING[model_type](**shape)
    image = {"image_token_id": shape.pop("image_token_id", len(tokenizer))}
    tied = {"tie_word_embeddings": shape["tie_word_embeddings"]}
    text = {"model_type": model_type, **shape}
    return CONFIG_MAPPING[kind](text_config=text, **PICTURED[kind], **image, **tied)


def _build(config: Any, attention: str, seed: int) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    if config.model_type in EAGER:
        attention = "eager"
    kind = AutoModelForImageTextToText if config.model_type in PICTURED else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config, attn_implementation=attention, dtype=torch.float32)
        with torch.no_grad():  # norms of one and biases of zero would hide mistakes
            for name, p in model.named_parameters():
                if ("norm" in name or "ln_" in name) and name.endswith("weight"):
                    p.uniform_(0.5, 1.5)
                elif name.endswith("bias"):
                    p.normal_(0.0, 0.1)
    return model.eval()


@pytest.fixture(scope="session")
def _models() -> dict[Any, Any]:
    return {}


@pytest.fixture
def tiny_model(
    _models: dict[Any, Any], _tokenizer: "PreTrainedTokenizerFast"
) -> "Callable[..., PreTrainedModel]":
    """Build `tiny_model(kind, *, seed=0, attention="sdpa", **config)`: random, float32, eval.

    Four layers, hidden 32, feed-forward 96, 4 heads over 2 key-value heads, the vocabulary of
    `tiny_tokenizer`. Equal arguments give equal weights; each call returns its own copy.
    """

    def build(
        kind: str = "qwen2", *, seed: int = 0, attention: str = "sdpa", **overrides: Any
    ) -> "PreTrainedModel":
        key = (kind, seed, attention, repr(sorted(overrides.items())))
        if key not in _models:
            _models[key] = _build(_config(kind, _tokenizer, overrides), attention, seed)
        return copy.deepcopy(_models[key])

    return build


@pytest.fixture
def speaker(
    tiny_model: "Callable[..., PreTrainedModel]", tiny_tokenizer: "PreTrainedTokenizerFast"
) -> "Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerFast]]":
    """Build `speaker(kind, *, seed=5, **config)`: a tiny model that answers in capital letters.

    Its head knows nothing but A to Z, which the tokenizer never merges, and the end of the turn,
    so that it gives short answers, "JGUT", that depend on the whole prompt.
    """

    def build(
        kind: str = "llama", *, seed: int = 5, **overrides: Any
    ) -> "tuple[PreTrainedModel, PreTrainedTokenizerFast]":
        model = tiny_model(kind, seed=seed, **overrides)
        letters = tiny_tokenizer.convert_tokens_to_ids(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
        end = tiny_tokenizer.eos_token_id
        W = model.get_output_embeddings().weight.data
        said, ended = W[letters].clone(), W[end].clone()
        W.zero_()
        W[letters], W[end] = said, 3 * ended  # a turn ends after some five letters
        return model, tiny_tokenizer

    return build
