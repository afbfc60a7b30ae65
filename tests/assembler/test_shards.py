"""How the groups of a batch are shared out over ranks: by what the learner computes for them."""

import hashlib

import pytest

from tristream.assembler.judge import ScoredGroup
from tristream.assembler.shards import BuiltBatch, num_packed_tokens, shard
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.batches import TrainingRollout
from tristream.wire.events import Group, Image, LogPosition, Segment, Split, VersionSpan, given, sampled


def make_answer(num_tokens: int) -> Segment:
    spans = (VersionSpan(version=0, start=0, end=num_tokens),)
    return sampled(Tokens.of([7] * num_tokens), LogProbs.of([-1.0] * num_tokens), spans)


def make_image(name: str) -> Image:
    data = name.encode()
    return Image(media_type="image/png", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def make_rollout(index: int, *segments: Segment) -> TrainingRollout:
    return TrainingRollout(index=index, segments=segments, temperature=1.0)


def make_scored(number: int, *, num_prompt: int, num_answer: int, size: int = 4) -> ScoredGroup:
    prompt = given(Tokens.of(range(num_prompt)))
    group = Group(run="test", split=Split.TRAIN, number=number, source="sums", sample_id=str(number), size=size)
    return ScoredGroup(
        group=group,
        rollouts=tuple(make_rollout(index, prompt, make_answer(num_answer)) for index in range(size)),
        rollout_outcomes=(),
        oldest_versions=(0,) * size,
        oldest_version=0,
        has_zero_variance=False,
        digest="",
        first_offsets={},
    )


def numbers_of(scored: list[ScoredGroup], world_size: int) -> list[list[int]]:
    batch = BuiltBatch(
        step=1, world_size=world_size, groups=tuple(scored), outcomes=(), dropped=(), position=LogPosition()
    )
    return [[group.group.number for group in shard(batch, rank).groups] for rank in range(world_size)]


def test_a_prompt_counts_once_for_its_rollouts() -> None:
    (scored,) = [make_scored(0, num_prompt=100, num_answer=5)]
    assert num_packed_tokens(scored.rollouts) == 100 + 4 * 5


def test_a_beginning_with_another_image_counts_again_and_so_does_what_was_sampled() -> None:
    first, second = (given(Tokens.of([1, 2, 3]), (make_image(name),)) for name in ("a", "b"))
    rollouts = [make_rollout(index, start, make_answer(2)) for index, start in enumerate([first, second, first])]
    assert num_packed_tokens(rollouts) == 2 * 3 + 3 * 2


def test_long_prompts_do_not_outweigh_long_answers() -> None:
    long_prompt = make_scored(0, num_prompt=100, num_answer=1)
    long_answers = [make_scored(number, num_prompt=1, num_answer=25) for number in (1, 2)]
    short = make_scored(3, num_prompt=1, num_answer=24)
    assert numbers_of([long_prompt, *long_answers, short], 2) == [[0, 3], [1, 2]]


@pytest.mark.parametrize("num_groups", [0, 1, 2])
def test_with_fewer_groups_than_ranks_some_have_none(num_groups: int) -> None:
    scored = [make_scored(number, num_prompt=3, num_answer=2) for number in range(num_groups)]
    shares = numbers_of(scored, 3)
    assert sorted(len(share) for share in shares) == [0] * (3 - num_groups) + [1] * num_groups
    assert sorted(number for share in shares for number in share) == list(range(num_groups))
