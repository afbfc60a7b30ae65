"""Requests in vLLM's terms, without vLLM."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import GenerationConfig

from tristream.config.engines import VllmEngineSection
from tristream.config.model import ModelSection
from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.policy.tokens import excluded_token_ids
from tristream.producer.engines.protocol import GenerationRequest
from tristream.producer.engines.stopping import StoppingRules
from tristream.producer.engines.vllm.arguments import GIB, engine_arguments
from tristream.producer.engines.vllm.requests import (
    make_prompt,
    require_same_prompt,
    sampling_arguments,
    spans_of,
)
from tristream.wire.arrays import Tokens
from tristream.wire.events import Sampling, VersionSpan


def sampling(**changes: object) -> Sampling:
    return Sampling(**{"temperature": 1.0, "top_p": 1.0, "max_tokens": 5, "seed": 3} | changes)  # type: ignore[arg-type]


def arguments_of(path: Path, **changes: object) -> dict[str, object]:
    encoder = PromptEncoder(path)
    return sampling_arguments(sampling(**changes), encoder, StoppingRules(encoder, GenerationConfig()))


def test_placeholders_of_images_are_ruled_out_at_any_temperature(vision_model_path: Path) -> None:
    config = PromptEncoder(vision_model_path).config
    assert arguments_of(vision_model_path)["logit_bias"] == dict.fromkeys(excluded_token_ids(config), float("-inf"))


def test_stops_are_the_model_s_and_the_request_s_and_stay(text_model_path: Path) -> None:
    end = PromptEncoder(text_model_path).tokenizer.eos_token_id
    arguments = arguments_of(text_model_path, stop=("a", "b"), stop_token_ids=(9, 8))
    assert arguments["stop"] == ["a", "b"]
    assert arguments["stop_token_ids"] == sorted({8, 9, end})
    assert arguments["include_stop_str_in_output"] is True
    assert arguments["detokenize"] is True
    plain = arguments_of(text_model_path)
    assert (plain["logit_bias"], plain["detokenize"]) == (None, False)


@pytest.mark.parametrize("temperature", [0.001, 2.5])
def test_temperatures_that_vllm_would_change_are_refused(text_model_path: Path, temperature: float) -> None:
    with pytest.raises(PolicyInputError, match="as temperature"):
        arguments_of(text_model_path, temperature=temperature)


def test_a_prompt_has_its_images_as_pixels_known_by_their_checksum(make_image: Callable[..., bytes]) -> None:
    images = (make_image(8, 4, 1), make_image(4, 8, 2), make_image(8, 4, 1))
    request = GenerationRequest(id="a", prompt_tokens=Tokens.of([1, 2]), images=images, sampling=sampling())
    prompt = make_prompt(request, max_pixels=100)
    assert prompt["prompt_token_ids"] == [1, 2]
    assert [image.size for image in prompt["multi_modal_data"]["image"]] == [(8, 4), (4, 8), (8, 4)]
    first, second, third = prompt["multi_modal_uuids"]["image"]
    assert first == third != second
    with pytest.raises(PolicyInputError, match="refused"):
        make_prompt(request, max_pixels=10)


def test_a_prompt_that_vllm_reads_otherwise_is_refused_with_both_lengths() -> None:
    require_same_prompt(Tokens.of([1, 2]), [1, 2])
    with pytest.raises(PolicyInputError, match="3 tokens where the learner reads 2"):
        require_same_prompt(Tokens.of([1, 2]), [1, 2, 2])


def test_versions_are_told_by_token() -> None:
    said = [
        SimpleNamespace(version=version, start=start, end=end) for version, start, end in (("3", 0, 4), ("4", 4, 6))
    ]
    spans = spans_of(SimpleNamespace(weight_versions=said), 6, 4)
    assert spans == (VersionSpan(version=3, start=0, end=4), VersionSpan(version=4, start=4, end=6))
    assert spans_of(SimpleNamespace(weight_versions=None), 0, 4) == ()


def test_an_engine_is_started_as_its_section_says() -> None:
    section = VllmEngineSection(type="vllm", max_batch_size=7, compile=False, tensor_parallel_size=2, kv_cache_gib=0.5)
    model = ModelSection(path=Path("m"), precision="bf16")
    arguments = engine_arguments(section, model, max_model_tokens=99, has_vision=True, is_on_cpu=False)
    assert arguments["dtype"] == "bfloat16"
    assert (arguments["max_num_seqs"], arguments["max_model_len"], arguments["tensor_parallel_size"]) == (7, 99, 2)
    assert arguments["enforce_eager"] is True
    assert arguments["kv_cache_memory_bytes"] == GIB // 2
    assert arguments["limit_mm_per_prompt"] == {"video": 0}
    plain = engine_arguments(
        VllmEngineSection(type="vllm"), model, max_model_tokens=99, has_vision=False, is_on_cpu=False
    )
    assert "kv_cache_memory_bytes" not in plain  # a GPU's share is filled
    assert "limit_mm_per_prompt" not in plain
