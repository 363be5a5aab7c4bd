"""Which memory belongs to a model, and the layer that its facts are taught at.

A memory is bound to the taught layer, the architecture, the chat template, and a sample of what
leads up to the layer. Knows no facts.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from qf.digest import digest_of
from qf.errors import ModelError
from qf.families import placement
from qf.loading import Loaded
from qf.memory import Binding, Memory
from qf.method.layers import default_layer
from qf.qf_memory import below

_ARCHITECTURE = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps",
    "rope_theta", "rope_parameters", "tie_word_embeddings", "sliding_window",
    "n_embd", "n_layer", "n_head", "alibi", "parallel_attn", "use_parallel_residual",
    "residual_multiplier",
)  # fmt: skip


def layer_of_environment() -> int | None:
    """The layer that QF_LAYER names, if it is set; raises ModelError where that is no number."""
    text = os.environ.get("QF_LAYER", "").strip()
    try:
        return int(text) if text else None
    except ValueError:
        raise ModelError(
            f"QF_LAYER is {text!r}: set it to the number of a decoder layer, or not at all."
        ) from None


def default_memory(name: str) -> Path:
    """The directory of a model's facts when none is named: one per model name."""
    from platformdirs import user_data_path

    own = name if name.strip("./\\~") else str(Path(name).expanduser().resolve())  # ".", "../.."
    return user_data_path("qf") / "memory" / re.sub(r"[^\w.-]+", "--", own).strip("-")


def usual_layer(memory: Path, count: int) -> int:
    """The layer that the facts in a memory were taught at, else the paper's depth."""
    bound = Memory.bound_to(memory)
    # A layer that this model has not is another model's, which opening the memory tells better.
    return bound.layer if bound and bound.layer < count else default_layer(count)


def binding_of(
    loaded: Loaded, layer: int, block: torch.nn.Module, projection: torch.nn.Module
) -> Binding:
    """The fingerprints of the taught layer, which is `block`, and of what is below `projection`."""
    transformer = loaded.transformer
    taught = next(name for name, m in transformer.named_modules() if m is projection)
    config = transformer.config.get_text_config().to_dict()
    names = transformer.config.architectures or [type(transformer).__name__]
    return Binding(
        digest=digest_of(
            config={k: config[k] for k in _ARCHITECTURE if k in config} | {"layer": layer},
            tensors=placement.state_of(block),
            template=loaded.tokenizer.chat_template or "",
        ),
        model=loaded.name,
        layer=layer,
        architecture=names[0],
        below=below(transformer, taught),
    )
