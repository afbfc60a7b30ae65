"""Excluded tokens have one definition: the placeholders of a model that takes images."""

from pathlib import Path

import pytest
import torch
from transformers import Idefics3Config, LlamaConfig, Qwen2_5_VLConfig

from tristream.policy.loading import load_config
from tristream.policy.tokens import excluded_token_ids, image_token_id, token_tensor
from tristream.wire.arrays import Tokens


def test_the_placeholders_of_a_vision_model_are_excluded_in_ascending_order() -> None:
    config = Qwen2_5_VLConfig(
        image_token_id=90, video_token_id=40, vision_start_token_id=70, vision_end_token_id=40, vision_token_id=8
    )
    assert excluded_token_ids(config) == (40, 70, 90)
    assert image_token_id(config) == 90


def test_placeholders_that_a_vision_model_lacks_are_left_out() -> None:
    assert excluded_token_ids(Idefics3Config(image_token_id=90)) == (90,)


def test_a_text_model_excludes_nothing_even_if_its_config_names_placeholders(text_model_path: Path) -> None:
    assert excluded_token_ids(load_config(text_model_path)) == ()
    config = LlamaConfig(image_token_id=90, vision_start_token_id=70)
    assert config.image_token_id == 90
    assert excluded_token_ids(config) == ()
    assert image_token_id(config) is None


@pytest.mark.parametrize("ids", [[], [0], [151_655, 1, 2**31 - 1]])
def test_packed_tokens_become_a_tensor(ids: list[int]) -> None:
    tensor = token_tensor(Tokens.of(ids))
    assert tensor.dtype == torch.long
    assert tensor.tolist() == ids
