"""Which architectures can be taught, keyed by Transformers' `config.model_type`.

A family is one small file beside this one, found by its `FAMILY`; what several have in common is in
`base.py` and `bases/`. Knows nothing of the method.
"""

from dataclasses import replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from qf.errors import ModelError
from qf.families import placement
from qf.families.base import Family
from qf.families.probe import complaint
from qf.families.refused import REFUSED

__all__ = ["REFUSED", "SUPPORTED", "Family", "family_of", "placement"]

_FILES = (import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__))
SUPPORTED: dict[str, Family] = {
    file.FAMILY.name: file.FAMILY for file in _FILES if hasattr(file, "FAMILY")
}


def family_of(model: Any) -> Family:
    """Return the family of a Transformers model, with or without its vocabulary head.

    A type that is not listed is taken where a short pass shows that it is built like one that is,
    Llama first. Raises ModelError, with the reason and the list of what is supported, for any
    other architecture.

    >>> family_of(Qwen2ForCausalLM(config)).name  # doctest: +SKIP
    'qwen2'
    """
    config = model.config.get_text_config()
    name = config.model_type
    family = SUPPORTED.get(name)
    if family is not None:
        why = family.unfit(config)
    elif name in REFUSED:
        why = REFUSED[name]
    else:
        family, why = _found(model, name)
    if why:
        raise ModelError(
            f"The architecture {name!r} is not supported ({why}): choose a model of type"
            f" {', '.join(sorted(SUPPORTED))}."
        )
    assert family is not None
    return family


def _found(model: Any, name: str) -> tuple[Family, str]:
    """The first family whose form a model of an unlisted type has; else Llama's and why it fails.

    Whether sequences can be packed no pass over one of them shows.
    """
    listed = (replace(f, name=name, examples=(), packed=False) for f in SUPPORTED.values())
    trials = dict.fromkeys((Family(name, packed=False), *listed))
    whys = []
    for family in trials:
        whys.append(complaint(model, family))
        if not whys[-1]:
            return family, ""
    return next(iter(trials)), whys[0]
