"""Where a model's calibration is kept: one file per model, layer and serving prompt.

A model directory may bring its own; else it lies in the user's cache. It can always be made again.
Knows files and digests, no models.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from qf.method.calibrate import Traffic, packed, unpacked
from qf.method.gate import Gate

BROUGHT = "qf_calibration.safetensors"
BROUGHT_GATE = "qf_gate.safetensors"
"""The names of the files that a model directory may bring along."""


def key_of(digest: str, system: str | None, questions: Sequence[str]) -> str:
    """What a calibration depends on: model, layer and template (`digest`), prompt, questions."""
    parts = "\0".join([digest, repr(system), *questions])
    return hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()


def cached(digest: str) -> Path:
    """The file of a digest in the user's cache."""
    from platformdirs import user_cache_path

    return user_cache_path("qf") / "calibration" / f"{digest[:32]}.safetensors"


def read(file: Path, key: str | None = None) -> tuple[str, Traffic] | None:
    """The key and the calibration in a file; None where it is absent, damaged or of another key."""
    try:
        with safetensors.safe_open(file, "pt") as stored:
            found, floor = stored.metadata()["key"], float(stored.metadata()["floor"])
            if key is not None and found != key:
                return None
            fine, moments = stored.get_tensor("directions"), stored.get_tensor("moments")
            V = fine.float()
            if "coarse" in stored.keys():  # noqa: SIM118 - a file is no dictionary
                V = unpacked(stored.get_tensor("coarse"), stored.get_tensor("steps"), fine)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return found, Traffic(V, moments, floor)


def write(file: Path, key: str, traffic: Traffic) -> None:
    """Write a calibration, all or nothing."""
    coarse, steps, fine = packed(traffic.directions)
    tensors = {"coarse": coarse, "steps": steps, "directions": fine, "moments": traffic.moments}
    _write(file, tensors, {"key": key, "floor": repr(traffic.floor)})


def read_gate(file: Path, key: str) -> Gate | None:
    """The gate in a file; None where it is absent, damaged or of another key."""
    try:
        with safetensors.safe_open(file, "pt") as stored:
            told = stored.metadata()
            if told["key"] != key:
                return None
            center, directions = stored.get_tensor("center"), stored.get_tensor("directions")
            return Gate(int(told["layer"]), center, directions, float(told["threshold"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def write_gate(file: Path, key: str, gate: Gate) -> None:
    """Write a gate, all or nothing."""
    tensors = {"directions": gate.directions, "center": gate.center}
    told = {"key": key, "layer": str(gate.layer), "threshold": repr(gate.threshold)}
    _write(file, tensors, told)


def _write(file: Path, tensors: dict[str, Tensor], told: dict[str, str]) -> None:
    content = safetensors.torch.save(tensors, told)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}.part")
    unfinished.write_bytes(content)
    unfinished.replace(file)
