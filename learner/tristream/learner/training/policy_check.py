"""Packed rollouts are held against the model's own forward pass, before anything is trained.

At start with random tokens and images, so that a model that is not computed right is refused before anything waits for
it; then with rollouts of the first batch. What is computed is what a step computes: groups are packed into a row, and
the policy scores it in training mode.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from tristream.learner.training.packing import pack_groups
from tristream.learner.training.sequences import RolloutKey, TrainingSequence, make_sequences
from tristream.learner.training.trained_policy import TrainedPolicy
from tristream.policy.images import ProcessedImage
from tristream.policy.proof.plain import OTHER_ATTENTION, PLAIN_ATTENTION, plain_logprobs, plainly, run_plain
from tristream.policy.proof.probes import Probes
from tristream.policy.proof.states import first_departure, recorded_states
from tristream.policy.proof.verdict import FAILURES, allowed_difference, difference_nats, refusal, require_same, why_not
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.batches import TrainingGroup, TrainingRollout
from tristream.wire.events import Group, Image, Segment, Split, VersionSpan, given, sampled

MAX_REAL_TOKENS = 1024
"""Rollouts with more tokens are not computed a second time: all their logits would be in memory at once."""
MAX_REAL_ROLLOUTS = 4

Images = Mapping[str, ProcessedImage]


def check_policy(policy: TrainedPolicy) -> float:
    """Hold the policy against its model's forward pass on random rollouts.

    Returns:
        How far log-probabilities are apart, in nats (``difference_nats``).

    Raises:
        UserError: it is more than rounding, or the model cannot compute packed rollouts at all.
    """
    groups, images = make_probe_groups(policy)
    try:
        return compare(policy, groups, images)
    except FAILURES as error:
        raise refusal(policy.checkpoint, f"cannot compute packed rollouts ({why_not(error)})") from error


def check_on_batch(policy: TrainedPolicy, groups: Iterable[TrainingGroup], images: Images) -> float | None:
    """Hold the policy against its model's forward pass on a few short rollouts of a batch.

    Returns:
        How far log-probabilities are apart, in nats; None if no rollout is short enough.

    Raises:
        UserError: it is more than rounding.
    """
    few = _few(policy, groups)
    return compare(policy, few, images) if few else None


def compare(policy: TrainedPolicy, groups: Sequence[TrainingGroup], images: Images) -> float:
    """How far packed and plain log-probabilities of all sampled tokens are apart, in nats.

    Raises:
        UserError: it is more than rounding.
    """
    sequences = {sequence.key: sequence for group in groups for sequence in _sequences(policy, group, images)}
    packed = score_packed(policy, groups, images)
    plain = [score_plain(policy, sequences[key]) for key in packed]
    allowed = allowed_difference(
        policy.checkpoint, plain, lambda: [score_plain(policy, sequences[key], OTHER_ATTENTION) for key in packed]
    )
    difference = difference_nats(policy.checkpoint, list(packed.values()), plain)
    require_same(
        policy.checkpoint,
        difference,
        allowed,
        of_what="of packed rollouts",
        where=lambda: _first_departure(policy, groups, images),
    )
    return difference


def score_packed(policy: TrainedPolicy, groups: Sequence[TrainingGroup], images: Images) -> dict[RolloutKey, Tensor]:
    """Log-probabilities of the sampled tokens of each rollout, all of them packed into one row, in training mode."""
    was_training = policy.training
    policy.train()
    row = pack_groups(groups, images, _no_advantages(groups), 1, policy.packing_rules())[0]
    with torch.no_grad():
        logprobs, _ = policy(row.to(policy.excluded.device))
    policy.train(was_training)
    return dict(zip(row.rollouts, torch.split(logprobs.cpu(), row.rollout_lengths.tolist()), strict=True))


def score_plain(policy: TrainedPolicy, sequence: TrainingSequence, attention: str = PLAIN_ATTENTION) -> Tensor:
    """The same of one rollout by the model's own forward pass."""
    logprobs = plain_logprobs(
        policy.checkpoint,
        sequence.tokens,
        [placed.image for placed in sequence.images],
        temperature=sequence.temperature,
        attention=attention,
    )
    return logprobs[sequence.sampled_at - 1]


def make_probe_groups(policy: TrainedPolicy) -> tuple[list[TrainingGroup], dict[str, ProcessedImage]]:
    """Two groups that share prefixes, with answers of several lengths, further turns, and images if it takes any."""
    probes = Probes(policy.checkpoint.config)
    images = probes.images()
    prompt = _given(probes, 7, images[:1])
    further_turn = _given(probes, 3, images[1:])
    answers = [_sampled(probes.tokens(number)) for number in (5, 1, 8, 3)]
    first = [[prompt, answers[0]], [prompt, answers[1]], [prompt, answers[2], further_turn, answers[3]]]
    other_prompt = _given(probes, 4, images[:2])
    second = [[other_prompt, _sampled(probes.tokens(number))] for number in (6, 2)]
    groups = [_group(number, rollouts) for number, rollouts in enumerate((first, second))]
    return groups, {image.sha256: image for image in images}


def _given(probes: Probes, num_tokens: int, images: Sequence[ProcessedImage]) -> Segment:
    tokens = [*probes.tokens(num_tokens), *probes.placed(images), *probes.tokens(2)]
    of_segment = tuple(Image(media_type="image/png", sha256=image.sha256, size_bytes=1) for image in images)
    return given(Tokens.of(tokens), of_segment)


def _sampled(tokens: Sequence[int]) -> Segment:
    spans = (VersionSpan(version=0, start=0, end=len(tokens)),)
    return sampled(Tokens.of(tokens), LogProbs.of([-1.0] * len(tokens)), spans)


def _group(number: int, rollouts: Sequence[Sequence[Segment]]) -> TrainingGroup:
    group = Group(
        run="check", split=Split.TRAIN, number=number, source="random", sample_id=str(number), size=len(rollouts)
    )
    made = [
        TrainingRollout(index=index, segments=tuple(segments), temperature=1.0)
        for index, segments in enumerate(rollouts)
    ]
    return TrainingGroup(group=group, rollouts=tuple(made))


def _few(policy: TrainedPolicy, groups: Iterable[TrainingGroup]) -> list[TrainingGroup]:
    """The group with the shortest rollouts, without those that cannot be compared."""
    excluded = set(policy.excluded_ids)

    def is_comparable(rollout: TrainingRollout) -> bool:
        drawn = {token for part in rollout.segments if part.is_sampled for token in part.tokens.to_list()}
        return bool(drawn) and drawn.isdisjoint(excluded) and rollout.num_tokens <= MAX_REAL_TOKENS

    fitting = [
        TrainingGroup(
            group=group.group,
            rollouts=tuple(
                sorted(filter(is_comparable, group.rollouts), key=lambda rollout: rollout.num_tokens)[
                    :MAX_REAL_ROLLOUTS
                ]
            ),
        )
        for group in groups
    ]
    filled = [group for group in fitting if group.rollouts]
    return [min(filled, key=lambda group: group.rollouts[-1].num_tokens)] if filled else []


def _first_departure(policy: TrainedPolicy, groups: Sequence[TrainingGroup], images: Images) -> str:
    """Where the policy parts from the model's own forward pass, in words: each rollout is computed alone."""
    model = policy.checkpoint
    for group in groups:
        for sequence, rollout in zip(_sequences(policy, group, images), group.rollouts, strict=True):
            alone = TrainingGroup(group=group.group, rollouts=(rollout,))
            with recorded_states(model) as own:
                score_packed(policy, [alone], images)
            with plainly(model), recorded_states(model) as plain:
                run_plain(model, sequence.tokens[:-1], [placed.image for placed in sequence.images])
            place = first_departure(own, plain)
            if place:
                return place
    return "only in the head, or where rollouts share a row"


def _sequences(policy: TrainedPolicy, group: TrainingGroup, images: Images) -> list[TrainingSequence]:
    return make_sequences(group, images, _no_advantages([group]), policy.packing_rules())


def _no_advantages(groups: Iterable[TrainingGroup]) -> dict[RolloutKey, float]:
    return {
        RolloutKey(group_number=group.group.number, index=rollout.index): 0.0
        for group in groups
        for rollout in group.rollouts
    }
