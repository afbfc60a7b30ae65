"""Messages and images as token ids: the chat template with its image placeholders expanded.

Each ``<image>`` marker becomes vision start, one placeholder for each feature of the image, and vision
end. How many features an image has follows from its size alone. Models without a vision tower take
the same path and refuse images.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from transformers import AutoConfig, AutoTokenizer

# The same name at the top of transformers refuses to work without torchvision; this one has a PIL backend.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from tristream.dispatcher.data.row_parsing import IMAGE_MARKER
from tristream.producer.engines.protocol import RequestError
from tristream.runtime.errors import UserError
from tristream.wire.events import Message

VISION_TOKEN_NAMES = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A prompt as the model reads it."""

    tokens: tuple[int, ...]
    text: str
    """The rendered chat template, with one placeholder for each image."""


class PromptEncoder:
    """Encodes prompts for one model folder.

    Raises:
        UserError: the folder is missing, or lacks a tokenizer or a chat template.
    """

    def __init__(self, model_path: Path) -> None:
        if not (model_path / "config.json").is_file():
            raise UserError(
                "has no config.json", where=str(model_path), remedy="give a checkpoint folder in model.path"
            )
        self.config = AutoConfig.from_pretrained(model_path)
        self.tokenizer = AutoTokenizer.from_pretrained(model_path)
        if not self.tokenizer.chat_template:
            raise UserError(
                "its tokenizer has no chat template", where=str(model_path), remedy="take an instruct model, or add one"
            )
        self.image_processor = load_image_processor(model_path) if self.has_vision else None

    @property
    def has_vision(self) -> bool:
        """Whether the model takes images."""
        return getattr(self.config, "vision_config", None) is not None

    def encode(self, messages: Sequence[Message], images: Sequence[bytes]) -> EncodedPrompt:
        """Token ids of a conversation up to where the model answers.

        Raises:
            RequestError: the images do not fit the markers or the model, or are damaged.
        """
        if images and not self.has_vision:
            raise RequestError("the model takes no images")
        text = self.tokenizer.apply_chat_template(
            [{"role": message.role, "content": self._place_images(message.content)} for message in messages],
            tokenize=False,
            add_generation_prompt=True,
        )
        expanded = self._expand(text, [self._num_features(image) for image in images])
        tokens = self.tokenizer(expanded, add_special_tokens=False)["input_ids"]
        return EncodedPrompt(tokens=tuple(tokens), text=text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of a completion, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _place_images(self, content: str) -> str:
        if not self.has_vision:
            return content
        start, end, pad = (self._token(name) for name in VISION_TOKEN_NAMES[:3])
        return content.replace(IMAGE_MARKER, f"{start}{pad}{end}")

    def _expand(self, text: str, counts: Sequence[int]) -> str:
        if not self.has_vision:
            return text
        pad = self._token("image_token_id")
        pieces = text.split(pad)
        if len(pieces) - 1 != len(counts):
            raise RequestError(f"the prompt has {len(pieces) - 1} image placeholders and {len(counts)} images")
        expanded = [piece + pad * count for piece, count in zip(pieces, [*counts, 0], strict=True)]
        return "".join(expanded)

    def _num_features(self, data: bytes) -> int:
        assert self.image_processor is not None
        width, height = open_image(data).size
        try:
            num_patches = self.image_processor.get_number_of_image_patches(height, width)
        except ValueError as error:
            raise RequestError(f"an image of {width} x {height} pixels: {error}") from None
        return int(num_patches) // int(self.image_processor.merge_size) ** 2

    def _token(self, name: str) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(getattr(self.config, name)))


def load_image_processor(model_path: Path) -> Any:  # noqa: ANN401 - transformers has no type for it
    """The image processor of a model folder.

    Raises:
        UserError: the folder has none.
    """
    try:
        return AutoImageProcessor.from_pretrained(model_path, backend="pil")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"has no image processor ({reason})", where=str(model_path), remedy="add preprocessor_config.json"
        ) from None


def open_image(data: bytes) -> PillowImage.Image:
    """An encoded image, its pixels not yet read.

    Raises:
        RequestError: the bytes are not an image.
    """
    try:
        return PillowImage.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError) as error:
        raise RequestError(f"an image cannot be opened: {error}") from None


def read_pixels(data: bytes) -> PillowImage.Image:
    """An encoded image as RGB pixels.

    Raises:
        RequestError: the bytes are not a whole image.
    """
    try:
        return open_image(data).convert("RGB")
    except (OSError, SyntaxError) as error:
        raise RequestError(f"an image is damaged: {error}") from None


def banned_token_ids(config: Any) -> tuple[int, ...]:  # noqa: ANN401 - transformers has no type for it
    """Tokens that stand for images and video, which a completion must not contain."""
    if getattr(config, "vision_config", None) is None:
        return ()
    ids = (getattr(config, name, None) for name in VISION_TOKEN_NAMES)
    return tuple(sorted({token for token in ids if token is not None}))
