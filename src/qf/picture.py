"""A picture that is shown to a vision-language model: image file -> tokens and pixels of a prompt.

Knows image files and Transformers' processors; no weights, and nothing of learning. A processor
takes a prompt's text, in which the chat template wrote one place for a picture, and the picture. It
gives tokens, as many as the picture takes, and pixels.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from qf.errors import LessonError, ModelError

INSTALL = "pip install 'qf[vision]'"


@dataclass(frozen=True)
class Picture:
    """A picture by its name and the SHA-256 of its file, and while it is there, its pixels.

    A remembered fact keeps the name and the digest alone.
    """

    name: str
    sha256: str
    pixels: Any = None  # PIL.Image.Image, RGB
    processor: Any = None

    @classmethod
    def of(cls, image: Any, processor: Any) -> Picture:
        """The picture in an image file, or a `PIL.Image`.

        Raises LessonError: no such file, or one that holds no picture. ModelError: no Pillow.
        """
        try:
            from PIL import Image, ImageOps
        except ImportError as error:
            raise ModelError(f"Pictures need Pillow, which is not here: {INSTALL}.") from error
        if isinstance(image, Image.Image):
            name = Path(str(getattr(image, "filename", "") or "picture")).name
            digest = hashlib.sha256(repr((image.mode, image.size)).encode() + image.tobytes())
        elif isinstance(image, str | os.PathLike):
            path = Path(image).expanduser()
            try:
                digest, name = hashlib.sha256(path.read_bytes()), path.name
                image = Image.open(path)
                image.load()
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                why = getattr(error, "strerror", None) or "it holds no picture that can be read"
                raise LessonError(
                    f"The image {str(path)!r} cannot be used ({why}): give a PNG, JPEG or the like."
                ) from error
        else:
            raise LessonError(f"The image {image!r} is none: give a file's name or a PIL.Image.")
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return cls(name, digest.hexdigest(), upright, processor)

    def prompt(self, text: str, after: int = 0) -> tuple[tuple[int, ...], dict[str, Any]]:
        """Return the tokens of a prompt that shows it, and the tensors that go with them.

        What there is one of for each token, (1, L), is 0 for the `after` tokens that are to follow.

        Raises LessonError: a picture that the processor does not take, or no place for it in the
        text.
        """
        assert self.pixels is not None, "a remembered picture is not shown again"
        try:
            seen = self.processor(
                text=[text], images=[self.pixels], return_tensors="pt", add_special_tokens=False
            )
        except (ValueError, TypeError, RuntimeError, IndexError, ZeroDivisionError) as error:
            why = str(error).strip().partition("\n")[0].rstrip(" .:") or type(error).__name__
            raise LessonError(
                f"The image {self.name!r} cannot be shown in this prompt ({why}): give another"
                " picture, or a chat template that has a place for one."
            ) from error
        ids = seen["input_ids"]
        extra: dict[str, Tensor] = {
            name: pad(x, (0, after)) if x.shape == ids.shape else x
            for name, x in seen.items()
            if name not in ("input_ids", "attention_mask") and isinstance(x, Tensor)
        }
        return tuple(ids[0].tolist()), extra


class Patches:
    """The processor of the Qwen2-VL models, for pictures: one token for each merged patch.

    Transformers' own also wants a processor of videos, and that wants Torchvision.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, token_id: int) -> None:
        self.image_processor, self.tokenizer, self.token_id = image_processor, tokenizer, token_id

    def __call__(self, text: list[str], images: list[Any], **options: Any) -> dict[str, Tensor]:
        """Return tokens, their kinds (1 for the picture's), patches, and how these lie."""
        seen = self.image_processor(images=images, return_tensors="pt")
        token = self.tokenizer.convert_ids_to_tokens(self.token_id)
        if (places := text[0].count(token)) != len(images):
            raise ValueError(f"the prompt has {places} places for pictures, {token!r}")
        count = int(seen["image_grid_thw"].prod()) // self.image_processor.merge_size**2
        ids = self.tokenizer([text[0].replace(token, token * count)], **options)["input_ids"]
        return {"input_ids": ids, "mm_token_type_ids": (ids == self.token_id).int(), **seen}

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write what `from_pretrained` of the model's own processor reads, but for videos."""
        self.image_processor.save_pretrained(directory)


def shows_pictures(config: Any) -> bool:
    """Whether a model of this configuration takes pictures and text."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def processor_of(source: str, config: Any, tokenizer: Any, trust_remote_code: bool) -> Any:
    """Load what turns pictures into the inputs of the model in `source`.

    Where a chat template comes with it, the tokenizer takes that one. Raises ModelError: files or
    libraries that are missing.
    """
    from transformers import AutoImageProcessor, AutoProcessor, Idefics3Processor, ProcessorMixin

    kind, trust = config.model_type, {"trust_remote_code": trust_remote_code}
    try:
        template = ProcessorMixin.get_processor_dict(source)[0].get("chat_template")
        if kind in ("qwen2_vl", "qwen2_5_vl"):
            images = AutoImageProcessor.from_pretrained(source, **trust)
            processor: Any = Patches(images, tokenizer, config.image_token_id)
        elif kind in ("smolvlm", "idefics3"):
            # SmolVLM's own shows pictures as this one does, and wants Torchvision for videos.
            processor = Idefics3Processor.from_pretrained(source, **trust)
        else:
            processor = AutoProcessor.from_pretrained(source, **trust)
    except Exception as error:  # files and libraries of many kinds may be missing or broken
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(
            f"The model {source!r} cannot be shown pictures ({lines[0].strip().rstrip(' .:')}):"
            f" check its preprocessor_config.json, and {INSTALL}."
        ) from error
    tokenizer.chat_template = template or tokenizer.chat_template
    return processor
