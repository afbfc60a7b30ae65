"""What rollouts are made of, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from tristream.policy.images import PolicyInputError
from tristream.producer.engines.protocol import Completion, EngineFailedError
from tristream.producer.rollout_making import (
    check_sampling,
    make_failed_rollout,
    make_sample,
    sampling_of,
    why_no_rollout,
)
from tristream.producer.rollout_running import find_engine_failure
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
)

SECOND_NS = 1_000_000_000
IMAGE = Image(media_type="image/png", sha256="a", size_bytes=1, data=b"a")
PLOT = Image(media_type="image/png", sha256="b", size_bytes=1, data=b"b")
PROMPT = Prompt(
    group=Group(run="demo", split=Split.TRAIN, number=5, source="sums", sample_id="row-5", size=3),
    messages=(Message(role="user", content="<image>2 + 2?"),),
    images=(IMAGE,),
    reward=RewardSpec(terms=(), ground_truth="4", columns_json='{"level": 2}'),
    sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=6, seed=11),
    progress=Progress(step=2, total_steps=4),
    created_ns=10 * SECOND_NS,
)


def make_completion(tokens: list[int], logprobs: list[float]) -> Completion:
    return Completion(
        id="demo/5/1",
        prompt_tokens=Tokens.of([1, 2]),
        tokens=Tokens.of(tokens),
        logprobs=LogProbs.of(logprobs),
        version_spans=(VersionSpan(version=3, start=0, end=len(tokens)),),
        finish_reason=FinishReason.STOP,
        started_ns=12 * SECOND_NS,
        generate_seconds=1.5,
    )


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
    sound = make_completion([4, 5], [-0.5, -0.1])
    found = why_no_rollout([sound, make_completion(tokens, logprobs)])
    assert found is None if reason is None else reason in str(found)


def test_a_rollout_without_an_answer_is_told() -> None:
    assert why_no_rollout([]) == "its environment ended before the policy answered"


def test_rollouts_of_a_group_differ_by_their_seed_alone() -> None:
    samplings = [sampling_of(PROMPT, index) for index in range(3)]
    assert len({sampling.seed for sampling in samplings}) == 3
    assert {replace(sampling, seed=11) for sampling in samplings} == {PROMPT.sampling}
    assert samplings == [sampling_of(PROMPT, index) for index in range(3)]


def test_an_environment_is_told_its_row_and_the_seed_of_its_rollout() -> None:
    sample = make_sample(PROMPT, 1)
    assert (sample.sample_id, sample.source, sample.split) == ("row-5", "sums", "train")
    assert (sample.ground_truth, sample.columns, sample.messages) == ("4", {"level": 2}, PROMPT.messages)
    assert (sample.step, sample.total_steps, sample.seed) == (2, 4, sampling_of(PROMPT, 1).seed)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"min_p": 1.0},
        {"max_tokens": 0},
    ],
)
def test_what_cannot_be_sampled_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyInputError, match="nothing can be sampled"):
        check_sampling(replace(PROMPT.sampling, **changes))


def test_an_engine_that_failed_is_found_behind_what_an_environment_makes_of_it() -> None:
    def fail() -> None:
        try:
            raise EngineFailedError("out of memory")
        except EngineFailedError as error:
            raise ValueError("no tool") from error

    with pytest.raises(ValueError, match="no tool") as caught:
        fail()
    assert str(find_engine_failure(caught.value)) == "out of memory"
    assert find_engine_failure(ValueError("no tool")) is None
