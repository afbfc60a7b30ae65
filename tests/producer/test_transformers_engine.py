import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tristream.policy.images import PolicyInputError, read_pixels
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.policy.tokens import excluded_token_ids
from tristream.producer.engines.decoding_policy import DecodingPolicy
from tristream.producer.engines.protocol import Completion, GenerationRequest
from tristream.producer.engines.transformers import TransformersEngine
from tristream.wire.arrays import Tokens
from tristream.wire.events import FinishReason, Message, Sampling, VersionSpan

MakeImage = Callable[[int, int, int], bytes]


def make_engine(path: Path, max_batch_size: int = 64) -> TransformersEngine:
    encoder = PromptEncoder(path)
    engine = TransformersEngine(encoder, DecodingPolicy(path), max_batch_size=max_batch_size)
    engine.load_weights(3, path / "model.safetensors")
    return engine


def make_request(
    engine: TransformersEngine,
    request_id: str,
    question: str,
    images: Sequence[bytes] = (),
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 12,
) -> GenerationRequest:
    prompt = engine._encoder.encode([Message(role="user", content="<image>" * len(images) + question)], images)
    return GenerationRequest(
        id=request_id,
        prompt_tokens=prompt.tokens,
        images=tuple(images),
        sampling=Sampling(
            temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=random.Random(request_id).getrandbits(60)
        ),
    )


def complete(engine: TransformersEngine, requests: Sequence[GenerationRequest]) -> dict[str, Completion]:
    for request in requests:
        engine.submit(request)
    completions: dict[str, Completion] = {}
    while engine.num_waiting or engine.num_running:
        for completion in engine.step():
            assert completion.id not in completions
            completions[completion.id] = completion
    return completions


def recompute_logits(engine: TransformersEngine, request: GenerationRequest, completion: Completion) -> torch.Tensor:
    """Logits [completion tokens, vocabulary] of one plain forward over prompt and completion."""
    ids = torch.tensor([[*request.prompt_tokens.to_list(), *completion.tokens.to_list()]])
    inputs: dict[str, torch.Tensor] = {}
    if request.images:
        processor = engine._encoder.image_processor
        assert processor is not None
        inputs = dict(processor(images=[read_pixels(image) for image in request.images], return_tensors="pt"))
        inputs["mm_token_type_ids"] = (ids == engine._encoder.config.image_token_id).int()
    engine._model.model.base_model.rope_deltas = None
    with torch.inference_mode():
        logits: torch.Tensor = engine._model.model(input_ids=ids, **inputs).logits[0]
    logits = logits[len(request.prompt_tokens) - 1 : -1].clone()
    logits[:, list(excluded_token_ids(engine._encoder.config))] = -torch.inf
    return logits


def assert_logprobs_are_those_of_a_full_forward(
    engine: TransformersEngine, request: GenerationRequest, completion: Completion
) -> None:
    logits = recompute_logits(engine, request, completion)
    temperature = request.sampling.temperature
    if temperature == 0:
        assert logits.argmax(dim=-1).tolist() == completion.tokens.to_list()
    logprobs = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    expected = logprobs[range(len(completion.tokens)), completion.tokens.to_list()]
    torch.testing.assert_close(torch.tensor(completion.logprobs.to_list()), expected, atol=1e-4, rtol=0)


def mixed_requests(engine: TransformersEngine, make_image: MakeImage) -> list[GenerationRequest]:
    small, wide, tall = make_image(16, 16, 1), make_image(40, 16, 2), make_image(24, 56, 3)
    requests = []
    for member in range(4):
        requests += [
            make_request(engine, f"small/{member}", "How many?", [small], temperature=1.3, max_tokens=20),
            make_request(engine, f"two/{member}", "Compare.", [wide, tall], temperature=0.7, max_tokens=3 + 4 * member),
            make_request(engine, f"text/{member}", "Tell me more, please.", temperature=1.0, max_tokens=9),
        ]
    greedy = make_request(engine, "greedy", "Read.", [tall], temperature=0.0, max_tokens=15)
    greedy_text = make_request(engine, "greedy-text", "Hi", temperature=0.0, max_tokens=7)
    return [*requests, greedy, greedy_text]


def test_logprobs_of_a_mixed_batch_are_those_of_a_full_forward(vision_model_path: Path, make_image: MakeImage) -> None:
    engine = make_engine(vision_model_path)
    requests = mixed_requests(engine, make_image)
    completions = complete(engine, requests)
    assert set(completions) == {request.id for request in requests}
    for request in requests:
        assert_logprobs_are_those_of_a_full_forward(engine, request, completions[request.id])


def test_requests_that_join_a_running_batch_get_the_same_answers(
    vision_model_path: Path, make_image: MakeImage
) -> None:
    together = make_engine(vision_model_path)
    requests = mixed_requests(together, make_image)
    expected = complete(together, requests)
    crowded = complete(make_engine(vision_model_path, max_batch_size=5), requests)
    for request in requests:
        assert crowded[request.id].tokens == expected[request.id].tokens
        assert crowded[request.id].logprobs.to_list() == pytest.approx(
            expected[request.id].logprobs.to_list(), abs=1e-4
        )


def test_a_text_model_answers_with_the_logprobs_of_a_full_forward(text_model_path: Path) -> None:
    engine = make_engine(text_model_path)
    requests = [make_request(engine, str(number), "Question? " * number, max_tokens=10) for number in range(5)]
    completions = complete(engine, requests)
    for request in requests:
        assert_logprobs_are_those_of_a_full_forward(engine, request, completions[request.id])


def test_placeholders_of_images_are_never_sampled(vision_model_path: Path) -> None:
    engine = make_engine(vision_model_path)
    requests = [make_request(engine, str(number), "?", temperature=100.0, max_tokens=60) for number in range(60)]
    completions = complete(engine, requests)
    excluded = set(excluded_token_ids(engine._encoder.config))
    assert len(excluded) == 4
    assert not excluded & {token for completion in completions.values() for token in completion.tokens.to_list()}


def test_a_completion_ends_with_its_stop_token_or_at_its_length(vision_model_path: Path) -> None:
    engine = make_engine(vision_model_path)
    requests = [make_request(engine, str(number), "?", temperature=3.0, max_tokens=100) for number in range(40)]
    completions = complete(engine, requests).values()
    stop = engine._encoder.tokenizer.eos_token_id
    reasons = {completion.finish_reason for completion in completions}
    assert FinishReason.STOP in reasons
    for completion in completions:
        tokens = completion.tokens.to_list()
        assert stop not in tokens[:-1]
        assert (tokens[-1] == stop) == (completion.finish_reason is FinishReason.STOP)
        assert completion.version_spans == (VersionSpan(version=3, start=0, end=len(completion.tokens)),)


def test_a_nucleus_gives_the_logprobs_of_the_nucleus(text_model_path: Path) -> None:
    engine = make_engine(text_model_path)
    request = make_request(engine, "nucleus", "Why?", top_p=0.5, max_tokens=20)
    completion = complete(engine, [request])["nucleus"]
    logprobs = torch.log_softmax(recompute_logits(engine, request, completion), dim=-1)
    plain = logprobs[range(len(completion.tokens)), completion.tokens.to_list()]
    gain = torch.tensor(completion.logprobs.to_list()) - plain
    assert bool((gain >= -1e-5).all())
    assert bool((gain <= -torch.tensor(0.5).log() + 1e-5).all())


def test_other_weights_give_other_answers_and_old_weights_the_old_ones(vision_model_path: Path, tmp_path: Path) -> None:
    engine = make_engine(vision_model_path)
    request = make_request(engine, "again", "What now?", max_tokens=10)
    before = complete(engine, [request])["again"]
    generator = torch.Generator().manual_seed(5)
    tensors = {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in engine._model.model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(tensors, tmp_path / "model.safetensors")
    engine.load_weights(4, tmp_path / "model.safetensors")
    changed = complete(engine, [request])["again"]
    engine.load_weights(3, vision_model_path / "model.safetensors")
    assert changed.tokens != before.tokens
    assert changed.version_spans[0].version == 4
    assert complete(engine, [request])["again"].tokens == before.tokens


def test_weights_of_another_model_are_refused(vision_model_path: Path, text_model_path: Path) -> None:
    engine = make_engine(vision_model_path)
    with pytest.raises(ValueError, match="lacks"):
        engine.load_weights(4, text_model_path / "model.safetensors")


def test_requests_that_the_model_cannot_answer_are_refused(vision_model_path: Path, make_image: MakeImage) -> None:
    engine = make_engine(vision_model_path)
    with pytest.raises(PolicyInputError, match="longer than the model's 256"):
        engine.submit(make_request(engine, "long", "word " * 60))
    good = make_request(engine, "good", "?", [make_image(64, 64, 1)])
    damaged = GenerationRequest(
        id="damaged", prompt_tokens=good.prompt_tokens, images=(good.images[0][:200],), sampling=good.sampling
    )
    with pytest.raises(PolicyInputError, match="image"):
        engine.submit(damaged)
    assert engine.num_waiting == 0


def test_a_second_turn_with_an_image_of_its_own_gets_the_logprobs_of_a_full_forward(
    vision_model_path: Path, make_image: MakeImage
) -> None:
    engine = make_engine(vision_model_path)
    first_image, second_image = make_image(24, 16, 1), make_image(16, 40, 2)
    first = make_request(engine, "turn-1", "How many?", [first_image], max_tokens=5)
    answer = complete(engine, [first])["turn-1"]
    reply = make_request(engine, "turn-2", "And here?", [second_image], max_tokens=8)
    second = GenerationRequest(
        id="turn-2",
        prompt_tokens=Tokens(first.prompt_tokens.data + answer.tokens.data + reply.prompt_tokens.data),
        images=(first_image, second_image),
        sampling=reply.sampling,
    )
    assert_logprobs_are_those_of_a_full_forward(engine, second, complete(engine, [second])["turn-2"])


def test_requests_whose_images_do_not_fit_their_placeholders_are_refused(
    vision_model_path: Path, text_model_path: Path, make_image: MakeImage
) -> None:
    engine, text_engine = make_engine(vision_model_path), make_engine(text_model_path)
    good = make_request(engine, "good", "?", [make_image(64, 64, 1)])
    with pytest.raises(PolicyInputError, match="placeholders for 0 image features"):
        engine.submit(replace(good, images=()))
    with pytest.raises(PolicyInputError, match="empty"):
        engine.submit(replace(good, prompt_tokens=Tokens()))
    with pytest.raises(PolicyInputError, match="takes no images"):
        text_engine.submit(good)
