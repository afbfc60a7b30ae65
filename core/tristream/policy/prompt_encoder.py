"""Messages and images as token ids: the chat template, with one placeholder for each image.

    encode: "<image>How many?"  ->  vision start, placeholder, vision end, how, many, ?
    expand: a placeholder       ->  one for each feature of its image

Engines expand on their own, or take the expanded prompt. How many features an image has follows from its size alone.
Models without a vision tower take the same path and refuse images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tristream.policy.image_header import MAX_IMAGE_PIXELS
from tristream.policy.images import PolicyInputError, image_size, load_image_processor
from tristream.policy.loading import has_vision, load_config
from tristream.policy.tokens import image_token_id
from tristream.runtime.errors import UserError
from tristream.wire.arrays import Tokens
from tristream.wire.events import IMAGE_MARKER, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A prompt as it is handed to an engine."""

    tokens: Tokens
    """Token ids, with one placeholder for each image."""
    text: str
    """The rendered chat template, with one placeholder for each image."""


class PromptEncoder:
    """Encodes prompts for one model folder.

    Raises:
        UserError: the folder is missing, or lacks a tokenizer or a chat template.
    """

    def __init__(self, model_path: Path, *, max_image_pixels: int = MAX_IMAGE_PIXELS) -> None:
        self.max_image_pixels = max_image_pixels
        """Images with more pixels are refused."""
        self.config = load_config(model_path)
        self.tokenizer = _load_tokenizer(model_path)
        self.image_processor = load_image_processor(model_path) if self.has_vision else None

    @property
    def has_vision(self) -> bool:
        """Whether the model takes images."""
        return has_vision(self.config)

    def encode(self, messages: Sequence[Message], images: Sequence[bytes]) -> EncodedPrompt:
        """Token ids of a conversation up to where the model answers.

        Raises:
            PolicyInputError: the images do not fit the markers or the model, are damaged or too large, or the template
                or the tokenizer refuses the text.
        """
        text = self.render(messages)
        tokens = self.encode_text(text)
        if not tokens:
            raise PolicyInputError("the prompt is empty")
        self.expand(tokens, images)
        return EncodedPrompt(tokens=tokens, text=text)

    def encode_text(self, text: str) -> Tokens:
        """Token ids of a text as it is, with nothing put before or behind it.

        Raises:
            PolicyInputError: the tokenizer refuses it.
        """
        try:
            return Tokens.of(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        except Exception as error:  # such as lone surrogates
            raise PolicyInputError(f"the tokenizer refuses the text: {error}") from None

    def expand(self, tokens: Tokens, images: Sequence[bytes]) -> Tokens:
        """The tokens as the model reads them: a placeholder for each feature of an image, in place of its only one.

        Raises:
            PolicyInputError: the images do not fit the placeholders or the model, or their headers are refused.
        """
        placeholder = image_token_id(self.config)
        if placeholder is None:
            if images:
                raise PolicyInputError("the model takes no images")
            return tokens
        ids = tokens.to_list()
        num_placeholders = ids.count(placeholder)
        if num_placeholders != len(images):
            raise PolicyInputError(f"the prompt has {num_placeholders} image placeholders and {len(images)} images")
        if not images:
            return tokens
        counts = iter([self._num_features(image) for image in images])
        return Tokens.of(chain.from_iterable([token] * (next(counts) if token == placeholder else 1) for token in ids))

    def decode(self, tokens: Tokens) -> str:
        """Text of tokens, without special ones."""
        return str(self.tokenizer.decode(tokens.to_list(), skip_special_tokens=True))

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation as text, up to where the model answers, with one placeholder for each image marker.

        Raises:
            PolicyInputError: the template refuses the messages.
        """
        turns = [{"role": message.role, "content": self._place_images(message.content)} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program, and raises what it likes
            raise PolicyInputError(f"the chat template refuses the messages: {error}") from None
        return str(text)

    def _place_images(self, content: str) -> str:
        if not self.has_vision:
            return content
        names = ("vision_start_token_id", "image_token_id", "vision_end_token_id")
        return content.replace(IMAGE_MARKER, "".join(self._token(name) for name in names))

    def _num_features(self, data: bytes) -> int:
        assert self.image_processor is not None
        width, height = image_size(data, self.max_image_pixels)
        try:
            num_patches = self.image_processor.get_number_of_image_patches(height, width)
        except Exception as error:  # a processor answers sizes that it cannot take with errors of every kind
            raise PolicyInputError(f"an image of {width} x {height} pixels: {error}") from None
        return int(num_patches) // int(self.image_processor.merge_size) ** 2

    def _token(self, name: str) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(getattr(self.config, name)))


def _load_tokenizer(model_path: Path) -> Any:  # noqa: ANN401 - transformers has no type for it
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"has no tokenizer ({reason})", where=str(model_path), remedy="add tokenizer.json and tokenizer_config.json"
        ) from None
    if not tokenizer.chat_template:
        raise UserError(
            "its tokenizer has no chat template", where=str(model_path), remedy="take an instruct model, or add one"
        )
    return tokenizer
