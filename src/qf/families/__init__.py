"""Which architectures can be taught, keyed by Transformers' `config.model_type`.

A new family is one small file with a `FAMILY`, listed here. Knows nothing of the method.
"""

from typing import Any

from qf.errors import ModelError
from qf.families import (
    bloom,
    cohere,
    cohere2,
    falcon,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    gptj,
    granite,
    llama,
    mistral,
    olmo2,
    olmo3,
    opt,
    phi,
    phi3,
    placement,
    qwen2,
    qwen2_5_vl,
    qwen2_vl,
    qwen3,
    smollm3,
    starcoder2,
)
from qf.families.base import Family
from qf.families.probe import complaint
from qf.families.refused import REFUSED

__all__ = ["REFUSED", "SUPPORTED", "Family", "family_of", "placement"]

SUPPORTED: dict[str, Family] = {
    file.FAMILY.name: file.FAMILY
    for file in (
        bloom, cohere, cohere2, falcon, gemma, gemma2, gemma3, gpt2, gpt_neox, gptj, granite,
        llama, mistral, olmo2, olmo3, opt, phi, phi3, qwen2, qwen2_5_vl, qwen2_vl, qwen3, smollm3,
        starcoder2,
    )
}  # fmt: skip


def family_of(model: Any) -> Family:
    """Return the family of a Transformers model, with or without its vocabulary head.

    A type that is not listed is taken for one of the Llama group where a short pass shows that it
    is built like one. Raises ModelError, with the reason and the list of what is supported, for
    any other architecture.

    >>> family_of(Qwen2ForCausalLM(config)).name  # doctest: +SKIP
    'qwen2'
    """
    config = model.config.get_text_config()
    name = config.model_type
    family = SUPPORTED.get(name, Family(name, packed=False))
    if name in SUPPORTED:
        why = family.unfit(config)
    else:
        why = REFUSED.get(name) or complaint(model, family)
    if why:
        raise ModelError(
            f"The architecture {name!r} is not supported ({why}): choose a model of type"
            f" {', '.join(sorted(SUPPORTED))}."
        )
    return family
