"""Images are read by the vision tower once for as long as it stays as it is, and anew when it changes."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tristream.policy.images import ProcessedImage
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import GenerationRequest
from tristream.producer.engines.transformers.decoding_policy import DecodingPolicy, PreparedPrompt
from tristream.producer.engines.transformers.image_features import ImageFeatures
from tristream.producer.engines.transformers.request_reading import RequestReader
from tristream.wire.events import Message, Sampling

MakeImage = Callable[[int, int, int], bytes]


@contextmanager
def seen_patches(policy: DecodingPolicy) -> Iterator[list[int]]:
    """How many patches each call of the vision tower was given."""
    seen: list[int] = []
    hook = policy.model.base_model.visual.register_forward_pre_hook(
        lambda _module, arguments: seen.append(len(arguments[0]))
    )
    yield seen
    hook.remove()


@pytest.fixture
def reader(vision_model_path: Path) -> RequestReader:
    """Reads requests for the model with a vision tower."""
    return RequestReader(PromptEncoder(vision_model_path))


def read(reader: RequestReader, vision_model_path: Path, *images: bytes) -> PreparedPrompt:
    message = Message(role="user", content="<image>" * len(images) + "How many?")
    tokens = PromptEncoder(vision_model_path).encode([message], images).tokens
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=4, seed=1)
    request = GenerationRequest(id="1", prompt_tokens=tokens, images=images, sampling=sampling)
    return asyncio.run(reader.read(request))


def logits_of(policy: DecodingPolicy, *prompts: PreparedPrompt) -> Tensor:
    return torch.stack([prefilled.logits_V for prefilled in policy.prefill(prompts)])


def save_changed(source: Path, target: Path, part: str) -> Path:
    """The weights with those changed whose name has this part."""
    tensors = load_file(source / "model.safetensors")
    changed = {name: tensor + 0.1 * torch.ones_like(tensor) * (part in name) for name, tensor in tensors.items()}
    assert any(part in name for name in tensors)
    save_file(changed, target / "changed.safetensors")
    return target / "changed.safetensors"


def test_an_image_comes_back_without_the_vision_tower_and_the_logits_are_the_same(
    vision_model_path: Path, make_image: MakeImage, reader: RequestReader
) -> None:
    policy = DecodingPolicy(vision_model_path)
    first = read(reader, vision_model_path, make_image(16, 16, 1))
    both = read(reader, vision_model_path, make_image(24, 16, 2), make_image(16, 16, 1))
    with seen_patches(policy) as seen:
        before = logits_of(policy, first)
        together = logits_of(policy, both)
        again = logits_of(policy, first, both)
    assert seen == [first.images[0].num_patches, both.images[0].num_patches]
    torch.testing.assert_close(again, torch.cat([before, together]), atol=1e-5, rtol=0)


def test_weights_of_a_frozen_tower_keep_its_features(
    vision_model_path: Path, tmp_path: Path, make_image: MakeImage, reader: RequestReader
) -> None:
    path = save_changed(vision_model_path, tmp_path, "embed_tokens")
    prompt = read(reader, vision_model_path, make_image(16, 16, 1))
    policy, fresh = DecodingPolicy(vision_model_path), DecodingPolicy(vision_model_path)
    old = logits_of(policy, prompt)
    policy.load_weights(path)
    fresh.load_weights(path)
    with seen_patches(policy) as seen:
        new = logits_of(policy, prompt)
    assert seen == []
    assert not torch.equal(new, old)
    torch.testing.assert_close(new, logits_of(fresh, prompt), atol=1e-5, rtol=0)


def test_another_tower_reads_the_images_anew(
    vision_model_path: Path, tmp_path: Path, make_image: MakeImage, reader: RequestReader
) -> None:
    path = save_changed(vision_model_path, tmp_path, "visual.")
    prompt = read(reader, vision_model_path, make_image(16, 16, 1))
    policy, fresh = DecodingPolicy(vision_model_path), DecodingPolicy(vision_model_path)
    old = logits_of(policy, prompt)
    policy.load_weights(path)
    fresh.load_weights(path)
    new = logits_of(policy, prompt)
    assert not torch.allclose(new, old, atol=1e-3)
    torch.testing.assert_close(new, logits_of(fresh, prompt), atol=1e-5, rtol=0)


def test_features_beyond_the_limit_are_forgotten_oldest_first(
    vision_model_path: Path, make_image: MakeImage, reader: RequestReader
) -> None:
    policy = DecodingPolicy(vision_model_path)
    prompts = [read(reader, vision_model_path, make_image(16, 16, seed)) for seed in range(3)]
    images: list[ProcessedImage] = [prompt.images[0] for prompt in prompts]
    num_features = images[0].num_patches // 4
    num_bytes = 4 * num_features * policy.model.config.text_config.hidden_size
    policy.image_features = ImageFeatures(policy.model.base_model, policy.device, kept_bytes=2 * num_bytes)
    with seen_patches(policy) as seen:
        for number in (0, 1, 0, 2, 0, 1):
            policy.prefill([prompts[number]])
    assert len(seen) == 4, "0 and 1, 2 in the place of 1, and 1 anew"


def test_an_image_that_comes_back_is_cut_into_patches_once(
    vision_model_path: Path, make_image: MakeImage, reader: RequestReader
) -> None:
    first = read(reader, vision_model_path, make_image(16, 16, 1)).images[0]
    both = read(reader, vision_model_path, make_image(24, 16, 2), make_image(16, 16, 1)).images
    assert both[1] is first
    assert both[0] is not first
