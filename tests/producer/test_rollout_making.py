"""A rollout is its turns in order, with the times of them all."""

from dataclasses import replace
from typing import Any

import pytest

from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import EncodedPrompt
from tristream.producer.engines.protocol import Completion
from tristream.producer.rollout_making import make_failed_rollout, make_request, make_rollout, why_unusable
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import (
    FinishReason,
    Group,
    Image,
    Message,
    Progress,
    Prompt,
    RewardSpec,
    Sampling,
    Split,
    VersionSpan,
    given,
    sampled,
)

SECOND_NS = 1_000_000_000
IMAGE = Image(media_type="image/png", sha256="a", size_bytes=1, data=b"a")
PLOT = Image(media_type="image/png", sha256="b", size_bytes=1, data=b"b")
PROMPT = Prompt(
    group=Group(run="demo", split=Split.TRAIN, number=5, source="sums", sample_id="row-5", size=3),
    messages=(Message(role="user", content="<image>2 + 2?"),),
    images=(IMAGE,),
    reward=RewardSpec(terms=(), ground_truth="4"),
    sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=6, seed=11),
    progress=Progress(step=2, total_steps=4),
    created_ns=10 * SECOND_NS,
)


def make_completion(tokens: list[int], *, version: int, started_seconds: int, finish: FinishReason) -> Completion:
    return Completion(
        id="demo/5/1",
        tokens=Tokens.of(tokens),
        logprobs=LogProbs.of([-0.5] * len(tokens)),
        version_spans=(VersionSpan(version=version, start=0, end=len(tokens)),),
        finish_reason=finish,
        started_ns=started_seconds * SECOND_NS,
        generate_seconds=1.5,
    )


def test_a_rollout_of_several_turns_keeps_them_in_order() -> None:
    call = make_completion([4, 5, 6], version=3, started_seconds=12, finish=FinishReason.STOP)
    answer = make_completion([9], version=4, started_seconds=15, finish=FinishReason.LENGTH)
    question, result = given(Tokens.of([1, 2]), (IMAGE,)), given(Tokens.of([7, 8]), (PLOT,))
    rollout = make_rollout(
        PROMPT, 1, [question, call, result, answer], prompt_text="2 + 2?", text="4", producer="host-1"
    )
    assert rollout.segments == (
        question,
        sampled(Tokens.of([4, 5, 6]), LogProbs.of([-0.5] * 3), (VersionSpan(version=3, start=0, end=3),)),
        result,
        sampled(Tokens.of([9]), LogProbs.of([-0.5]), (VersionSpan(version=4, start=0, end=1),)),
    )
    assert (rollout.id, rollout.images) == ("demo/5/1", (IMAGE, PLOT))
    assert (rollout.oldest_version, rollout.newest_version) == (3, 4)
    assert (rollout.num_prompt_tokens, rollout.num_sampled_tokens, rollout.num_tokens) == (2, 4, 8)
    assert rollout.finish_reason is FinishReason.LENGTH
    assert (rollout.queued_seconds, rollout.generate_seconds) == (2.0, 3.0)
    assert (rollout.temperature, rollout.reward, rollout.progress) == (0.7, PROMPT.reward, PROMPT.progress)


def test_a_failed_rollout_has_no_segments() -> None:
    rollout = make_failed_rollout(PROMPT, 2, producer="host-1", error="no \ud800 picture " + "x" * 600)
    assert (rollout.id, rollout.segments, rollout.finish_reason) == ("demo/5/2", (), FinishReason.ERROR)
    assert rollout.oldest_version == -1
    assert (rollout.error[:12], len(rollout.error)) == ("no ? picture", 500)


@pytest.mark.parametrize(
    ("tokens", "logprobs", "reason"),
    [
        ([4, 5], [-0.5, -0.1], None),
        ([], [], "no token"),
        ([4], [], "1 tokens and gave 0"),
        ([4, 5], [-0.5, float("nan")], "no numbers"),
        ([4, 5], [float("-inf"), -0.5], "no numbers"),
    ],
)
def test_a_completion_that_nothing_can_be_learned_from_is_told(
    tokens: list[int], logprobs: list[float], reason: str | None
) -> None:
    sound = make_completion(tokens, version=3, started_seconds=12, finish=FinishReason.STOP)
    found = why_unusable(replace(sound, logprobs=LogProbs.of(logprobs)))
    assert found is None if reason is None else reason in str(found)


def test_requests_of_a_group_differ_by_their_seed_alone() -> None:
    encoded = EncodedPrompt(tokens=Tokens.of([1, 2]), text="2 + 2?")
    requests = [make_request(PROMPT, encoded, (b"a",), index) for index in range(3)]
    assert [request.id for request in requests] == ["demo/5/0", "demo/5/1", "demo/5/2"]
    assert len({request.sampling.seed for request in requests}) == 3
    assert {(request.prompt_tokens, request.images) for request in requests} == {(encoded.tokens, (b"a",))}
    assert {(request.sampling.temperature, request.sampling.max_tokens) for request in requests} == {(0.7, 6)}
    assert requests == [make_request(PROMPT, encoded, (b"a",), index) for index in range(3)]


@pytest.mark.parametrize("changes", [{"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_tokens": 0}])
def test_what_cannot_be_sampled_is_refused(changes: dict[str, Any]) -> None:
    prompt = replace(PROMPT, sampling=replace(PROMPT.sampling, **changes))
    with pytest.raises(PolicyInputError, match="nothing can be sampled"):
        make_request(prompt, EncodedPrompt(tokens=Tokens.of([1]), text="?"), (), 0)
