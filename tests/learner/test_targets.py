"""Which tokens are targets, what predicts them, and how rollouts are spread over micro-batches; no model is needed."""

import pytest
import torch
from hypothesis import given as with_examples
from hypothesis import settings
from hypothesis import strategies as st

from training_groups import (
    TEXT_RULES,
    advantages_of,
    is_sampled_of,
    key_of,
    make_groups,
    make_rollout,
    sampled_as,
    split_scores,
    tokens_of,
    units_of,
    wrap_rollouts,
)
from tristream.learner.training.packing import MicroBatch, pack_groups
from tristream.learner.training.planning import plan_units
from tristream.learner.training.sequences import RolloutKey
from tristream.policy.attention.packing import build_layout
from tristream.wire.arrays import Tokens
from tristream.wire.events import Segment, given

SHAPES = st.lists(
    st.lists(st.tuples(st.booleans(), st.lists(st.integers(2, 4), max_size=3)), max_size=5), min_size=1, max_size=5
)
"""Segments, sampled or given, of the rollouts of a group; few tokens, so that prefixes are long."""


@settings(deadline=None, max_examples=200)
@with_examples(shapes=SHAPES, num_micro_batches=st.integers(1, 4))
def test_each_sampled_token_is_one_target_and_its_predictor_has_read_all_before_it(
    shapes: list[list[tuple[bool, list[int]]]], num_micro_batches: int
) -> None:
    rollouts = []
    for index, shape in enumerate(shapes):
        segments = [sampled_as(tokens) if is_sampled else given(Tokens.of(tokens)) for is_sampled, tokens in shape]
        rollouts.append(make_rollout(index, [given(Tokens.of([1])), *segments, sampled_as([3])]))
    group = wrap_rollouts(0, rollouts)
    micro_batches = pack_groups([group], {}, advantages_of([group]), num_micro_batches, TEXT_RULES)
    found: set[RolloutKey] = set()
    for micro_batch in (m for m in micro_batches if not m.is_filler):
        targets = split_scores(micro_batch, micro_batch.targets)
        for key, histories in split_histories(micro_batch).items():
            tokens, is_sampled = tokens_of(rollouts[key.index]), is_sampled_of(rollouts[key.index])
            wanted = [position for position in range(len(tokens)) if is_sampled[position]]
            assert targets[key].tolist() == [tokens[position] for position in wanted]
            assert histories == [tokens[:position] for position in wanted]
            assert key not in found
            found.add(key)
    assert found == {key_of(group, rollout) for rollout in rollouts}


def split_histories(micro_batch: MicroBatch) -> dict[RolloutKey, list[list[int]]]:
    """For each target the tokens that its predictor sees, itself included, by the layout of attention."""
    layout, tokens = micro_batch.layout, micro_batch.input_ids[0].tolist()
    num_prefix_slots = layout.prefix_rows.numel()
    histories = []
    for predictor in micro_batch.predictors.tolist():
        slot = int(layout.restore[predictor])
        if slot < num_prefix_slots:
            unit, column = divmod(slot, layout.prefix_rows.shape[1])
            seen = layout.prefix_rows[unit, : column + 1].tolist()
        else:
            tail, column = divmod(slot - num_prefix_slots, layout.tail_rows.shape[1])
            columns = torch.cat([layout.prefix_rows[layout.unit_of_tail[tail]], layout.tail_rows[tail]])
            seen = columns[layout.tail_mask[tail, 0, column]].tolist()
        histories.append([tokens[position] for position in seen])
    parts = iter(histories)
    return {
        key: [next(parts) for _ in range(length)]
        for key, length in zip(micro_batch.rollouts, micro_batch.rollout_lengths.tolist(), strict=True)
    }


def test_what_was_given_after_the_last_sampled_token_is_left_out() -> None:
    prompt, tool = given(Tokens.of([5, 6])), given(Tokens.of([40, 41]))
    group = wrap_rollouts(0, [make_rollout(0, [prompt, sampled_as([8, 9]), tool])])
    (micro_batch,) = pack_groups([group], {}, advantages_of([group]), 1, TEXT_RULES)
    assert micro_batch.input_ids.tolist() == [[5, 6, 8]]


def test_advantages_and_temperatures_are_those_of_the_token_s_rollout() -> None:
    (group,) = make_groups(1, size=3, num_images=0, num_turns=2)
    (micro_batch,) = pack_groups([group], {}, advantages_of([group]), 1, TEXT_RULES)
    advantages = split_scores(micro_batch, micro_batch.advantages)
    temperatures = split_scores(micro_batch, micro_batch.temperatures)
    old_logprobs = split_scores(micro_batch, micro_batch.old_logprobs)
    for rollout in group.rollouts:
        key, count = key_of(group, rollout), rollout.num_sampled_tokens
        assert advantages[key].tolist() == [1.0 + rollout.index] * count
        assert temperatures[key].tolist() == pytest.approx([rollout.temperature] * count)
        recorded = [value for segment in rollout.segments for value in segment.logprobs.to_list()]
        assert old_logprobs[key].tolist() == recorded


@pytest.mark.parametrize("segments", [(sampled_as([5, 6]),), (given(Tokens.of([])), sampled_as([5, 6]))])
def test_a_rollout_without_a_beginning_is_refused_by_name(segments: tuple[Segment, ...]) -> None:
    group = wrap_rollouts(7, [make_rollout(3, segments)])
    with pytest.raises(ValueError, match="rollout 3 of group test/7 begins with a sampled token"):
        pack_groups([group], {}, advantages_of([group]), 1, TEXT_RULES)


@pytest.mark.parametrize("answer", [(), (sampled_as([]),), (given(Tokens.of([6])), sampled_as([]))])
def test_an_empty_answer_predicts_nothing_and_is_left_out(answer: tuple[Segment, ...]) -> None:
    prompt = given(Tokens.of([5, 6]))
    empty, whole = make_rollout(0, [prompt, *answer]), make_rollout(1, [prompt, sampled_as([8, 9])])
    group = wrap_rollouts(0, [empty, whole])
    (micro_batch,) = pack_groups([group], {}, advantages_of([group]), 1, TEXT_RULES)
    assert micro_batch.rollouts == (key_of(group, whole),)
    assert micro_batch.input_ids.tolist() == [[5, 6, 8]]
    nothing = wrap_rollouts(1, [empty])
    (filler,) = pack_groups([nothing], {}, advantages_of([nothing]), 1, TEXT_RULES)
    assert filler.is_filler


# Units and micro-batches -------------------------------------------------------------------------


def test_more_micro_batches_than_rollouts_are_filled_with_what_counts_for_nothing() -> None:
    groups = make_groups(1, size=2, num_images=0)
    micro_batches = pack_groups(groups, {}, advantages_of(groups), 5, TEXT_RULES)
    assert [micro_batch.is_filler for micro_batch in micro_batches].count(True) == 3
    assert sum(len(m.rollouts) for m in micro_batches if not m.is_filler) == 2


@settings(deadline=None, max_examples=25)
@with_examples(
    units=st.lists(
        st.tuples(st.integers(1, 6), st.lists(st.integers(0, 5), min_size=1, max_size=4)), min_size=1, max_size=4
    )
)
def test_layout_restores_each_token_exactly_once(units: list[tuple[int, list[int]]]) -> None:
    layout = build_layout(units)
    slots = torch.cat([layout.prefix_rows.flatten(), layout.tail_rows.flatten()])
    num_tokens = sum(prefix + sum(tails) for prefix, tails in units)
    assert slots[layout.restore].tolist() == list(range(num_tokens))


@settings(deadline=None, max_examples=25)
@with_examples(
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=8),
    num_micro_batches=st.integers(1, 12),
    num_turns=st.integers(1, 3),
)
def test_every_rollout_is_in_exactly_one_micro_batch(sizes: list[int], num_micro_batches: int, num_turns: int) -> None:
    groups = [
        make_groups(1, size=size, num_images=0, seed=number, first=number, num_turns=num_turns)[0]
        for number, size in enumerate(sizes)
    ]
    plan = plan_units([unit for group in groups for unit in units_of(group)], num_micro_batches)
    assert len(plan) == num_micro_batches
    packed = sorted(sequence.key for units in plan for unit in units for sequence in unit.sequences)
    assert packed == sorted(key_of(group, rollout) for group in groups for rollout in group.rollouts)
    assert all(plan) or len(packed) < num_micro_batches


def test_micro_batches_are_balanced_by_tokens() -> None:
    units = [unit for group in make_groups(16, num_images=0) for unit in units_of(group)]
    loads = [sum(unit.num_tokens for unit in of_batch) for of_batch in plan_units(units, 4)]
    assert max(loads) - min(loads) <= max(unit.num_tokens for unit in units)
