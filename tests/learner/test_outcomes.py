import random
from dataclasses import replace

from training_groups import make_groups, make_outcome
from tristream.config.algorithms import AlgorithmSection
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.outcomes import advantage_by_rollout, mean_rewards, with_advantages
from tristream.learner.training.sequences import RolloutKey
from tristream.wire.events import Outcome, RolloutOutcome

GROUP_STD = make_algorithm(AlgorithmSection()).advantages


def make_outcomes(count: int) -> list[Outcome]:
    generator = random.Random(0)
    return [make_outcome(generator, group, step=1) for group in make_groups(count, size=3, num_images=0)]


def test_a_rollout_that_is_not_valid_has_no_advantage_and_does_not_move_those_of_others() -> None:
    first, second = make_outcomes(2)
    missing = RolloutOutcome(index=1, valid=False, reward=0.0)
    holed = replace(first, rollouts=(first.rollouts[0], missing, first.rollouts[2]))
    done, other = with_advantages([holed, second], GROUP_STD)
    assert done.rollouts[1] == missing
    expected, of_other = GROUP_STD(
        [[first.rollouts[0].reward, first.rollouts[2].reward], [rollout.reward for rollout in second.rollouts]]
    )
    assert (done.rollouts[0].advantage, done.rollouts[2].advantage) == expected
    assert tuple(rollout.advantage for rollout in other.rollouts) == of_other
    advantages = advantage_by_rollout([done, other])
    assert len(advantages) == 5
    assert advantages[RolloutKey(group_number=0, index=2)] == expected[1]


def test_nothing_but_advantages_is_changed() -> None:
    outcomes = make_outcomes(2)
    for before, after in zip(outcomes, with_advantages(outcomes, GROUP_STD), strict=True):
        rollouts = tuple(replace(rollout, advantage=0.0) for rollout in after.rollouts)
        assert replace(after, rollouts=rollouts) == before


def test_mean_rewards_are_those_of_valid_rollouts_by_source() -> None:
    first, second = make_outcomes(2)
    first = replace(
        first,
        rollouts=(
            RolloutOutcome(index=0, valid=True, reward=1.0),
            RolloutOutcome(index=1, valid=True, reward=0.5),
            RolloutOutcome(index=2, valid=False, reward=0.0),
        ),
    )
    second = replace(
        second,
        group=replace(second.group, source="words"),
        rollouts=(RolloutOutcome(index=0, valid=False, reward=0.0),),
    )
    assert mean_rewards([first, second]) == {"shapes": 0.75}
