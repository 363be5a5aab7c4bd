"""Tiny vision-language models on disk, as a hub name would give them, and what they are shown.

The inputs of a prompt with a picture are made here by hand, as the papers of the two families
describe them: an independent reference for what goes through processors and chat templates.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.architectures import PICTURED

KINDS = tuple(PICTURED)
QWEN = ("qwen2_vl", "qwen2_5_vl")
PLACE = {**dict.fromkeys(QWEN, "<|image_pad|>"), "smolvlm": "<image>", "idefics3": "<image>"}
SPECIAL = [
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<image>", "<fake_token_around_image>",
    "<global-img>", "<end_of_utterance>", *(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)),
]  # fmt: skip

# Qwen's takes plain text and parts, the other one parts only.
QWEN_TEMPLATE = (
    "{%- for turn in messages -%}{{- '<|im_start|>' + turn.role + '\\n' -}}"
    "{%- if turn.content is string -%}{{- turn.content -}}{%- else -%}"
    "{%- for part in turn.content -%}{%- if part.type == 'image' -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- part.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
PARTS_TEMPLATE = (
    "{{- '<|im_start|>' -}}{%- for turn in messages -%}{{- turn.role | capitalize -}}"
    "{{- ':' if turn.content[0].type == 'image' else ': ' -}}"
    "{%- for part in turn.content -%}{%- if part.type == 'text' -%}{{- part.text -}}"
    "{%- elif part.type == 'image' -%}{{- '<image>' -}}{%- endif -%}{%- endfor -%}"
    "{{- '<end_of_utterance>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}"
)


def picture(seed: int = 1, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Noise, of that many pixels across and down."""
    shape = (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def image_processor(kind: str) -> Any:
    """Patches of 4 by 4 for Qwen; else tiles of 16 by 16, of a picture of 32 across."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    if kind in QWEN:
        return Qwen2VLImageProcessorPil(patch_size=4, min_pixels=64, max_pixels=4096)
    made = SmolVLMImageProcessorPil if kind == "smolvlm" else Idefics3ImageProcessorPil
    return made(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})


def save(
    kind: str, speaker: Callable[..., Any], directory: Path, seed: int = 5, **options: Any
) -> Path:
    """Write a model of this kind that speaks in capital letters, with all that belongs to it."""
    tokenizer = copy.deepcopy(speaker("llama")[1])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    image = tokenizer.convert_tokens_to_ids(PLACE[kind])
    options |= {"vocab_size": len(tokenizer), "image_token_id": image}
    model, _ = speaker(kind, seed=seed, **options)
    if kind not in QWEN:
        head, old = model.get_output_embeddings().weight.data, tokenizer.eos_token_id
        tokenizer.eos_token = "<end_of_utterance>"
        head[tokenizer.eos_token_id], head[old] = head[old].clone(), 0
    model.save_pretrained(directory)
    template = QWEN_TEMPLATE if kind in QWEN else PARTS_TEMPLATE
    tokenizer.chat_template = None  # it is the processor's, and written where hubs have it
    tokenizer.save_pretrained(directory)
    image_processor(kind).save_pretrained(directory)
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    names = {"smolvlm": "SmolVLMProcessor", "idefics3": "Idefics3Processor"}
    if kind in names:
        told = {"processor_class": names[kind], "image_seq_len": 4}
        (directory / "processor_config.json").write_text(json.dumps(told))
    return directory


def text_of(kind: str, query: str, system: str = "", image: Any = None) -> str:
    """A prompt in the form of the templates above, with a place for each token of the picture."""
    shown = "" if image is None else _places(kind, image)
    if kind in QWEN:
        told = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        return f"{told}<|im_start|>user\n{shown}{query}<|im_end|>\n<|im_start|>assistant\n"
    told = f"System: {system}<end_of_utterance>\n" if system else ""
    space = "" if shown else " "
    return f"<|im_start|>{told}User:{space}{shown}{query}<end_of_utterance>\nAssistant:"


def _places(kind: str, image: Any) -> str:
    if kind in QWEN:
        count = (image.size[0] // 8) * (image.size[1] // 8)
        return "<|vision_start|>" + "<|image_pad|>" * count + "<|vision_end|>"
    around, four = "<fake_token_around_image>", "<image>" * 4
    rows = ("".join(f"{around}<row_{i}_col_{j}>{four}" for j in (1, 2)) + "\n" for i in (1, 2))
    return "".join(rows) + f"\n{around}<global-img>{four}{around}"


def inputs(kind: str, ids: Any, image: Any = None) -> dict[str, torch.Tensor]:
    """What the model takes for these tokens; of Qwen with the positions of the three kinds."""
    given: dict[str, torch.Tensor] = {"input_ids": torch.tensor([list(ids)])}
    if image is None:
        return given
    seen = dict(image_processor(kind)(images=[image], return_tensors="pt"))
    given |= {k: x for k, x in seen.items() if isinstance(x, torch.Tensor)}
    return given


def positions(ids: Any, place: int, image: Any) -> torch.Tensor:
    """Qwen2-VL's positions (3, 1, L): of time, height and width, by the paper's rule."""
    across, down = image.size[0] // 8, image.size[1] // 8
    found, at, t = [], 0, 0
    while t < len(ids):
        if ids[t] != place:
            found.append([at, at, at])
            at, t = at + 1, t + 1
            continue
        found += [[at, at + i, at + j] for i in range(down) for j in range(across)]
        at, t = at + max(across, down), t + across * down
    return torch.tensor(found).T[:, None]
