"""Positions of any sequence are those of the model, wherever its images stand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tristream.policy.images import ProcessedImage, load_image_processor, num_image_tokens, process_image
from tristream.policy.loading import load_model
from tristream.policy.positions import batch_positions, sequence_positions

MakeImage = Callable[[int, int, int], bytes]
TEXT_TOKEN = 50


@pytest.fixture(scope="module")
def model(vision_model_path: Path) -> Any:
    return load_model(vision_model_path, "fp32")


@pytest.fixture(scope="module")
def images(vision_model_path: Path, make_image: MakeImage) -> list[ProcessedImage]:
    """Images of 2 x 3 and 3 x 2 features after merging."""
    processor = load_image_processor(vision_model_path)
    made = [process_image(processor, make_image(*size, 1), str(size)) for size in ((24, 16), (16, 24))]
    assert [image.grid_thw for image in made] == [(1, 4, 6), (1, 6, 4)]
    return made


def make_sequence(model: Any, parts: list[int | ProcessedImage]) -> Tensor:
    """Text of given lengths and images."""
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, int):
            tokens += [TEXT_TOKEN] * part
        else:
            tokens += [model.config.image_token_id] * num_image_tokens(model.config, part)
    return torch.tensor(tokens)


def rope_index(model: Any, tokens: Tensor, images: list[ProcessedImage]) -> Tensor:
    """The positions that the whole model takes for a sequence without padding."""
    positions: Tensor = model.model.get_rope_index(
        tokens[None],
        (tokens == model.config.image_token_id).int()[None],
        image_grid_thw=torch.tensor([image.grid_thw for image in images]),
    )[0]
    return positions[:, 0]


def test_an_image_in_a_later_segment_is_placed_like_in_the_model(model: Any, images: list[ProcessedImage]) -> None:
    prompt, answer = make_sequence(model, [2, images[0], 3]), make_sequence(model, [4])
    tokens = torch.cat([prompt, answer, make_sequence(model, [1, images[1], 2])])
    positions = sequence_positions(model, tokens, images)
    assert torch.equal(positions, rope_index(model, tokens, images))
    # Two tokens, an image of 2 x 3 that takes three positions, 3 + 4 + 1 tokens, an image of 3 x 2, two tokens.
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, *range(5, 13), 13, 13, 13, 13, 13, 13, 16, 17],
        [0, 1, 2, 2, 2, 3, 3, 3, *range(5, 13), 13, 13, 14, 14, 15, 15, 16, 17],
        [0, 1, 2, 3, 4, 2, 3, 4, *range(5, 13), 13, 14, 13, 14, 13, 14, 16, 17],
    ]


def test_a_sequence_has_the_positions_of_its_own_beginning(model: Any, images: list[ProcessedImage]) -> None:
    tokens = make_sequence(model, [2, images[0], 3, images[1], 2])
    beginning = make_sequence(model, [2, images[0], 3])
    positions = sequence_positions(model, tokens, images)
    assert torch.equal(positions[:, : len(beginning)], sequence_positions(model, beginning, images[:1]))


def test_padded_sequences_are_placed_like_each_alone(model: Any, images: list[ProcessedImage]) -> None:
    sequences = [
        (make_sequence(model, [2, images[0], 1, images[1]]), images),
        (make_sequence(model, [5]), []),
        (make_sequence(model, [1, images[1], 1]), [images[1]]),
    ]
    lengths = torch.tensor([len(tokens) for tokens, _ in sequences])
    padded = torch.zeros(3, int(lengths.max()), dtype=torch.long)
    for row, (tokens, _) in zip(padded, sequences, strict=True):
        row[: len(tokens)] = tokens
    positions, following = batch_positions(model, padded, lengths, [image for _, own in sequences for image in own])
    for number, (tokens, own) in enumerate(sequences):
        alone = sequence_positions(model, tokens, own)
        assert torch.equal(positions[:, number, : len(tokens)], alone)
        assert following[number] == alone.max() + 1


def test_a_vision_model_without_images_and_a_text_model_count_tokens(model: Any, text_model_path: Path) -> None:
    tokens = torch.full((6,), TEXT_TOKEN)
    assert sequence_positions(model, tokens, ()).tolist() == [list(range(6))] * 3
    text_model = load_model(text_model_path, "fp32")
    assert sequence_positions(text_model, tokens, ()).tolist() == [list(range(6))]
    _, following = batch_positions(text_model, tokens.view(2, 3), torch.tensor([3, 2]), ())
    assert following.tolist() == [3, 2]
