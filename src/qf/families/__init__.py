"""Which architectures can be taught, keyed by Transformers' `config.model_type`.

A new family is one small file with a `FAMILY`, listed here. Knows nothing of the method.
"""

from typing import Any

from qf.errors import ModelError
from qf.families import llama, mistral, qwen2, qwen3
from qf.families.base import Family

__all__ = ["SUPPORTED", "Family", "family_of"]

SUPPORTED: dict[str, Family] = {
    family.name: family for family in (qwen2.FAMILY, qwen3.FAMILY, llama.FAMILY, mistral.FAMILY)
}


def family_of(model: Any) -> Family:
    """Return the family of a Transformers model, with or without its vocabulary head.

    Raises ModelError, with the list of what is supported, for any other architecture.

    >>> family_of(Qwen2ForCausalLM(config)).name  # doctest: +SKIP
    'qwen2'
    """
    name = model.config.get_text_config().model_type
    if name not in SUPPORTED:
        raise ModelError(
            f"The architecture {name!r} is not supported: choose a model of type"
            f" {', '.join(sorted(SUPPORTED))}."
        )
    return SUPPORTED[name]
