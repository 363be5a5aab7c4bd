"""The fingerprint that binds remembered facts to the model they were taught to.

It hashes what it is given: architecture fields, tensors and a chat template. It knows no
files and no models, and does not choose what belongs into the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_CHUNK = 1 << 24  # elements copied from the device at a time, so that memory stays bounded


def digest_of(*, config: Mapping[str, Any], tensors: Mapping[str, Tensor], template: str) -> str:
    """Return sha256, as 64 hex digits, of architecture fields, tensors and chat template.

    Equal for equal content: the order of the mappings, the process and the device play no part.
    It changes with any byte of a tensor, with a tensor's name, dtype or shape, with any field of
    `config` (values that JSON can hold; `TypeError` otherwise) and with the template.

    >>> one = digest_of(config={"layers": 2}, tensors={"W": torch.ones(2, 3)}, template="{{x}}")
    >>> two = digest_of(config={"layers": 2}, tensors={"W": torch.zeros(2, 3)}, template="{{x}}")
    >>> one == two
    False
    """
    names = sorted(tensors)
    header = {
        "format": "qf digest 1",
        "config": dict(config),
        "template": template,
        "tensors": [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names],
    }
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode("ascii"))
    for name in names:
        # Seen as bytes, not as numbers: bfloat16 has no NumPy counterpart, and nothing is rounded.
        for chunk in tensors[name].detach().reshape(-1).split(_CHUNK):
            digest.update(chunk.cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
