"""Conversations become the tokens that the model was made for."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.runtime.errors import UserError
from tristream.wire.arrays import Tokens
from tristream.wire.events import IMAGE_MARKER, Message

MakeImage = Callable[[int, int, int], bytes]


def ask(content: str) -> list[Message]:
    return [Message(role="user", content=content)]


def test_each_marker_becomes_one_placeholder_and_expands_to_the_features_of_its_image(
    vision_model_path: Path, make_image: MakeImage
) -> None:
    encoder = PromptEncoder(vision_model_path)
    images = [make_image(24, 16, 1), make_image(40, 40, 2)]
    encoded = encoder.encode(ask(f"A {IMAGE_MARKER} and {IMAGE_MARKER}."), images)
    text = (
        "<|im_start|>user\nA <|vision_start|><|image_pad|><|vision_end|> and "
        "<|vision_start|><|image_pad|><|vision_end|>.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert encoded.text == text
    assert encoder.tokenizer.decode(encoded.tokens.to_list()) == text
    expanded = encoder.expand(encoded.tokens, images)
    first, second, third = text.split("<|image_pad|>")
    expanded_text = first + "<|image_pad|>" * 6 + second + "<|image_pad|>" * 25 + third
    assert encoder.tokenizer.decode(expanded.to_list()) == expanded_text
    assert expanded.to_list() == encoder.tokenizer(expanded_text, add_special_tokens=False)["input_ids"]


def test_expanding_keeps_the_tokens_of_earlier_turns(vision_model_path: Path, make_image: MakeImage) -> None:
    encoder, images = PromptEncoder(vision_model_path), [make_image(24, 16, 1), make_image(16, 16, 2)]
    first = encoder.encode(ask(f"A {IMAGE_MARKER}."), images[:1]).tokens
    sampled = encoder.tokenizer("an answer", add_special_tokens=False)["input_ids"]
    second = encoder.encode(ask(IMAGE_MARKER), images[1:]).tokens
    expanded = encoder.expand(Tokens.of([*first.to_list(), *sampled, *second.to_list()]), images)
    before, after = encoder.expand(first, images[:1]).to_list(), encoder.expand(second, images[1:]).to_list()
    assert expanded.to_list() == [*before, *sampled, *after]


def test_tokens_without_images_expand_to_themselves(text_model_path: Path, vision_model_path: Path) -> None:
    for path in (text_model_path, vision_model_path):
        encoder = PromptEncoder(path)
        tokens = encoder.encode(ask("Hi"), []).tokens
        assert encoder.expand(tokens, []) == tokens


def test_a_conversation_of_several_turns_keeps_their_order(text_model_path: Path) -> None:
    encoder = PromptEncoder(text_model_path)
    messages = [*ask("2 + 2?"), Message(role="assistant", content="4"), *ask("And 3 + 3?")]
    encoded = encoder.encode(messages, [])
    assert encoder.decode(encoded.tokens) == "user\n2 + 2?\nassistant\n4\nuser\nAnd 3 + 3?\nassistant\n"


def test_special_tokens_are_left_out_of_the_text(text_model_path: Path) -> None:
    encoder = PromptEncoder(text_model_path)
    end = encoder.tokenizer.eos_token_id
    assert encoder.decode(Tokens.of([*encoder.tokenizer("four")["input_ids"], end])) == "four"


def test_images_that_do_not_fit_the_prompt_or_the_model_are_refused(
    vision_model_path: Path, text_model_path: Path, make_image: MakeImage
) -> None:
    encoder, image = PromptEncoder(vision_model_path), make_image(16, 16, 1)
    with pytest.raises(PolicyInputError, match="2 image placeholders and 1 images"):
        encoder.encode(ask(f"{IMAGE_MARKER}{IMAGE_MARKER}"), [image])
    with pytest.raises(PolicyInputError, match="0 image placeholders and 1 images"):
        encoder.encode(ask("?"), [image])
    with pytest.raises(PolicyInputError, match="is refused: the bytes are no PNG"):
        encoder.encode(ask(IMAGE_MARKER), [b"nothing"])
    with pytest.raises(PolicyInputError, match="16 x 16 pixels is too large, 255 are allowed"):
        PromptEncoder(vision_model_path, max_image_pixels=255).encode(ask(IMAGE_MARKER), [image])
    with pytest.raises(PolicyInputError, match="1 x 900 pixels"):
        encoder.encode(ask(IMAGE_MARKER), [make_image(1, 900, 1)])
    with pytest.raises(PolicyInputError, match="takes no images"):
        PromptEncoder(text_model_path).encode(ask(IMAGE_MARKER), [image])
    one = encoder.encode(ask(IMAGE_MARKER), [image]).tokens
    with pytest.raises(PolicyInputError, match="1 image placeholders and 0 images"):
        encoder.expand(one, [])


def test_text_that_the_template_or_the_tokenizer_cannot_take_is_refused(text_model_path: Path) -> None:
    encoder = PromptEncoder(text_model_path)
    with pytest.raises(PolicyInputError, match="the tokenizer refuses the text"):
        encoder.encode(ask("a lone \ud800 surrogate"), [])
    encoder.tokenizer.chat_template = "{{ raise_exception('only two roles are known') }}"
    with pytest.raises(PolicyInputError, match="the chat template refuses the messages: only two roles are known"):
        encoder.encode(ask("4"), [])
    encoder.tokenizer.chat_template = "{% if messages %}{% endif %}"
    with pytest.raises(PolicyInputError, match="the prompt is empty"):
        encoder.encode(ask("4"), [])


def test_a_folder_that_lacks_a_tokenizer_or_a_template_is_refused(tmp_path: Path, text_model_path: Path) -> None:
    shutil.copy(text_model_path / "config.json", tmp_path)
    with pytest.raises(UserError, match="has no tokenizer") as refused:
        PromptEncoder(tmp_path)
    assert "\n" not in str(refused.value)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(text_model_path / name, tmp_path)
    with pytest.raises(UserError, match="no chat template"):
        PromptEncoder(tmp_path)
