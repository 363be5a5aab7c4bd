"""From what a user names to a Transformers model with its tokenizer, and what identifies it.

Everything goes through `from_pretrained`. Knows nothing of learning.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from qf.chat import PLAIN_TEMPLATE
from qf.errors import ModelError
from qf.picture import processor_of, shows_pictures
from qf.room import ran_out, shortage

EMBEDDED = "embedded"
SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""What Accelerate takes for a `device_map` besides a dictionary."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Loaded:
    """A Transformers model in evaluation mode, its tokenizer, and the name to show to people.

    `directory` is where it was loaded from; empty where that is not known. `processor` turns
    pictures into inputs of a vision-language model; where there is none, `pictureless` says why.
    """

    transformer: Any
    tokenizer: Any
    name: str
    directory: str = ""
    processor: Any = None
    pictureless: str = ""


def load_pair(
    model: str | os.PathLike[str] | tuple[Any, Any] | None = None,
    *,
    template: str | None = None,
    device: str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    tp_plan: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> Loaded:
    """Load a hub name, a directory, a pair (model, tokenizer), or the embedded model (None).

    The pair of a vision-language model may have a processor for its tokenizer. None takes QF_MODEL
    where it is set. `template` is "plain", the text of a chat template or a file that holds one,
    and replaces the model's own. `dtype` is one of DTYPES or None for the checkpoint's own.
    `device_map`, or a `device` of SPREAD, has Accelerate lay the weights over all that there is:
    accelerators, then this machine's memory, then its disk. `tp_plan="auto"` cuts them up for the
    processes that torchrun started, each of which calls this. A pair stays where it is.

    Raises ModelError: nothing of that name, files that do not load, no fast tokenizer, no such
    device.
    """
    if device in SPREAD:
        device, device_map = None, device_map or device
    if device and (device_map or tp_plan):
        raise ModelError(
            f"The device {device!r} is named beside a device_map or tp_plan: give one."
        )
    chat_template = _template(template) if template else None
    directory, processor, pictureless = "", None, ""
    if isinstance(model, tuple):
        if device_map or tp_plan:
            raise ModelError(
                "A model that is loaded already stays where it is: give `device_map` or `tp_plan`"
                " to its own from_pretrained."
            )
        transformer, tokenizer = model
        if hasattr(tokenizer, "image_processor"):
            processor, tokenizer = tokenizer, tokenizer.tokenizer
            tokenizer.chat_template = processor.chat_template or tokenizer.chat_template
        name = str(getattr(transformer.config, "name_or_path", "") or type(transformer).__name__)
    else:
        name = str(model or os.environ.get("QF_MODEL") or EMBEDDED)
        placing = _placing(device_map, tp_plan)
        transformer, tokenizer = _from_pretrained(name, dtype, trust_remote_code, placing)
        directory = str(embedded_path() if name == EMBEDDED else Path(name).expanduser())
        if shows_pictures(transformer.config):
            source = directory if Path(directory).is_dir() else name
            try:
                processor = processor_of(source, transformer.config, tokenizer, trust_remote_code)
            except ModelError as error:
                pictureless = str(error)
    if device:
        try:
            transformer = transformer.to(device)
        except (RuntimeError, AssertionError, ValueError) as error:
            if ran_out(error):
                raise ModelError(_too_large(name, error, [torch.device(device)])) from None
            raise ModelError(
                f"The device {device!r} cannot be used ({_first_line(error)}): try --device cpu."
            ) from error
    if chat_template:
        tokenizer.chat_template = chat_template
    return Loaded(transformer.eval(), tokenizer, name, directory, processor, pictureless)


def embedded_path() -> Path:
    """The directory of the embedded model within the package."""
    return Path(str(files("qf.demo").joinpath("model")))


def _placing(device_map: str | Mapping[str, Any] | None, tp_plan: str | None) -> dict[str, Any]:
    """What `from_pretrained` takes for weights that are not all to be in one place."""
    if tp_plan is not None:
        from transformers.distributed import DistributedConfig

        return {"distributed_config": DistributedConfig(tp_plan=tp_plan)}
    if device_map is None:
        return {}
    if find_spec("accelerate") is None:
        raise ModelError(
            f"To lay a model over several devices ({device_map!r}) Accelerate is needed: pip"
            " install 'qf[placement]'."
        )
    return {"device_map": device_map if isinstance(device_map, str) else dict(device_map)}


def _from_pretrained(
    name: str, dtype: str | None, trust_remote_code: bool, placing: Mapping[str, Any]
) -> tuple[Any, Any]:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )

    if dtype is not None and dtype not in DTYPES:
        raise ModelError(f"The dtype {dtype!r} is unknown: choose from {', '.join(DTYPES)}.")
    path = embedded_path() if name == EMBEDDED else Path(name).expanduser()
    source = str(path) if path.is_dir() else name
    local = path.is_dir() or looks_local(name)
    if local and not (Path(source) / "config.json").is_file():
        raise ModelError(
            f"There is no model in {source!r} (no config.json): give the directory of a saved"
            " Transformers model or the name of one on the Hugging Face hub."
        )
    # The embedded weights are stored in bfloat16 for their size; sums are exact enough in float32.
    wanted = DTYPES[dtype] if dtype else torch.float32 if name == EMBEDDED else "auto"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        sees = shows_pictures(config)
        kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        trust = {"trust_remote_code": trust_remote_code}
        model = kind.from_pretrained(source, dtype=wanted, **trust, **placing)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError) as error:
        raise ModelError(_why_not_loaded(name, error)) from error
    except Exception as error:
        # safetensors and tokenizers raise errors of their own that share no base but Exception.
        raise ModelError(_why_not_loaded(name, error)) from error
    return model, tokenizer


def looks_local(name: str) -> bool:
    """Whether a name is that of a directory here, and not of a model on the Hugging Face hub."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists()


def _too_large(name: str, error: Exception, devices: list[torch.device]) -> str:
    return (
        f"The model {name!r} does not fit ({shortage(error, devices)}): load it smaller (--dtype"
        " bfloat16) or over all that there is (--device-map auto)."
    )


def _why_not_loaded(name: str, error: Exception) -> str:
    text = str(error)
    if ran_out(error):
        return _too_large(name, error, [])
    if "trust_remote_code" in text:
        return (
            f"The model {name!r} brings code of its own: pass --trust-remote-code if you trust it."
        )
    if isinstance(error, OSError) and ("offline" in text.lower() or "connect" in text.lower()):
        return (
            f"The model {name!r} is not on this machine and the Hugging Face hub cannot be"
            " reached: check the name, or give the directory of a model."
        )
    if isinstance(error, OSError) and "huggingface.co" in text:
        return (
            f"The model {name!r} was not found, neither as a directory nor on the Hugging Face"
            " hub: check the name (and `hf auth login` if it is private)."
        )
    return f"The model {name!r} could not be loaded ({_first_line(error)}): check its files."


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:") if lines else type(error).__name__


def _template(template: str) -> str:
    if template == "plain":
        return PLAIN_TEMPLATE
    if "{" in template:
        return template
    try:
        return Path(template).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise ModelError(
            f"The chat template {template!r} cannot be read ({why}): give 'plain', a file, or the"
            " template itself."
        ) from error
