"""Hypothesis strategies for every event of the contract, and for what the batch service carries."""

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from tristream.wire import batches, events
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.topics import (
    COMMANDS,
    DEAD_LETTERS,
    OUTCOMES,
    PARTS,
    POLICY,
    PROMPTS,
    REWARDS,
    ROLLOUTS,
    STEPS,
    Topic,
)

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)
NUMBERS = st.integers(0, 2**40)
REALS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.dictionaries(NAMES, REALS, max_size=4)
TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(Tokens.of)

GROUPS = st.builds(
    events.Group,
    run=NAMES,
    split=st.sampled_from(events.Split),
    number=NUMBERS,
    source=NAMES,
    sample_id=TEXTS,
    size=st.integers(8, 64),
    eval_step=NUMBERS,
    eval_attempt=NUMBERS,
)
CHECKSUMS = st.text("0123456789abcdef", min_size=1, max_size=64)
IMAGES = st.one_of(
    st.builds(events.Image, media_type=NAMES, sha256=CHECKSUMS, size_bytes=NUMBERS, data=st.binary(min_size=1)),
    st.builds(events.Image, media_type=NAMES, sha256=CHECKSUMS, size_bytes=NUMBERS, uri=NAMES),
)
TERMS = st.builds(
    events.RewardTerm,
    id=NAMES,
    verifier=NAMES,
    version=NAMES,
    weights=VALUES,
    params_json=TEXTS,
    mode=st.sampled_from(events.TermMode),
)
SPECS = st.builds(
    events.RewardSpec,
    terms=st.lists(TERMS, min_size=1, max_size=3, unique_by=lambda term: term.id).map(tuple),
    ground_truth=TEXTS,
    columns_json=st.sampled_from(["{}", '{"ability": "math"}']),
    combine=st.sampled_from(events.Combine),
    on_unscored=st.sampled_from(events.OnUnscored),
)
MESSAGES = st.lists(st.builds(events.Message, role=NAMES, content=TEXTS), max_size=3)
PROGRESS = st.builds(events.Progress, step=NUMBERS, total_steps=st.integers(1, 2**40))
WEIGHTS = st.builds(events.Weights, version=NUMBERS, uri=NAMES, sha256=TEXTS)
INTERVALS = st.sets(NUMBERS, max_size=8).map(
    lambda ends: tuple(events.Interval(start=start, end=end) for start, end in list(pairwise(sorted(ends)))[::2])
)
OFFSETS = st.lists(
    st.builds(events.PartitionOffset, topic=NAMES, partition=st.integers(0, 100), offset=NUMBERS), max_size=3
).map(tuple)
EVALUATED_ROUNDS = st.builds(events.EvaluatedRound, eval_step=NUMBERS, eval_attempt=NUMBERS, numbers=INTERVALS)
POSITIONS = st.builds(
    events.LogPosition, log_id=TEXTS, offsets=OFFSETS, evaluated=st.lists(EVALUATED_ROUNDS, max_size=2).map(tuple)
)
LEDGERS = st.builds(
    events.Ledger,
    step=NUMBERS,
    settled=INTERVALS,
    num_dropped=NUMBERS,
    dropped_checksum=st.integers(0, 2**64 - 1),
    epoch=NUMBERS,
    position=POSITIONS,
)
SAMPLING = st.builds(
    events.Sampling, temperature=REALS, top_p=REALS, max_tokens=st.integers(0, 2**31 - 1), seed=st.integers(0, 2**63)
)


@st.composite
def sampled_segments(draw: st.DrawFn, min_tokens: int = 0) -> events.Segment:
    """As many log-probabilities as tokens, and spans within them."""
    tokens = draw(st.lists(st.integers(0, 2**31 - 1), min_size=min_tokens, max_size=20))
    logprobs = [draw(st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=0.0)) for _ in tokens]
    borders = sorted(draw(st.sets(st.integers(0, len(tokens)), max_size=4)))
    spans = tuple(events.VersionSpan(version=draw(NUMBERS), start=start, end=end) for start, end in pairwise(borders))
    return events.sampled(Tokens.of(tokens), LogProbs.of(logprobs), spans)


def given_segments(images: st.SearchStrategy[events.Image] = IMAGES) -> st.SearchStrategy[events.Segment]:
    return st.builds(events.given, TOKENS, st.lists(images, max_size=2).map(tuple))


PROMPT_SEGMENTS = st.builds(events.given, TOKENS.filter(len), st.lists(IMAGES, max_size=2).map(tuple))
SEGMENTS = st.just(()) | st.tuples(PROMPT_SEGMENTS, st.lists(given_segments() | sampled_segments(), max_size=4)).map(
    lambda parts: (parts[0], *parts[1])
)
PROMPT_EVENTS = st.builds(
    events.Prompt,
    group=GROUPS,
    messages=MESSAGES.filter(bool).map(tuple),
    images=st.lists(IMAGES, max_size=2).map(tuple),
    reward=SPECS,
    sampling=SAMPLING,
    progress=PROGRESS,
    pinned_weights=st.none() | WEIGHTS,
    run_fingerprint=TEXTS,
    digest=TEXTS,
    created_ns=NUMBERS,
)
ROLLOUT_EVENTS = st.builds(
    events.Rollout,
    group=GROUPS,
    index=st.integers(0, 7),
    segments=SEGMENTS,
    text=TEXTS,
    finish_reason=st.sampled_from(events.FinishReason),
    prompt_text=TEXTS,
    reward=SPECS,
    progress=PROGRESS,
    temperature=REALS,
    queued_seconds=REALS,
    generate_seconds=REALS,
    producer=TEXTS,
    prompt_digest=TEXTS,
    error=TEXTS,
    messages=MESSAGES.map(tuple),
    created_ns=NUMBERS,
)
REWARD_EVENTS = st.builds(
    events.Reward,
    group=GROUPS,
    index=st.integers(0, 7),
    term_id=NAMES,
    verifier=NAMES,
    version=NAMES,
    mode=st.sampled_from(events.TermMode),
    status=st.sampled_from(events.Status),
    detail=TEXTS,
    components=VALUES,
    abstained=st.lists(NAMES, max_size=2).map(tuple),
    metrics=VALUES,
    params_json=TEXTS,
    queued_seconds=REALS,
    score_seconds=REALS,
    created_ns=NUMBERS,
)
ROLLOUT_OUTCOMES = st.builds(
    events.RolloutOutcome,
    index=st.integers(0, 7),
    valid=st.booleans(),
    reward=REALS,
    advantage=REALS,
    age=st.integers(0, 100),
)


@st.composite
def outcomes(draw: st.DrawFn) -> events.Outcome:
    """A reason if and only if the group was dropped."""
    fate = draw(st.sampled_from(events.Fate))
    return events.Outcome(
        group=draw(GROUPS),
        fate=fate,
        step=draw(NUMBERS),
        drop_reason=draw(st.sampled_from(events.DropReason)) if fate is events.Fate.DROPPED else None,
        rollouts=tuple(draw(st.lists(ROLLOUT_OUTCOMES, max_size=3))),
        oldest_version=draw(st.integers(-1, 100)),
        has_zero_variance=draw(st.booleans()),
        created_ns=draw(NUMBERS),
    )


OUTCOME_LISTS = st.lists(outcomes(), max_size=2).map(tuple)
POLICY_EVENTS = st.builds(
    events.PolicyVersion,
    run=NAMES,
    weights=WEIGHTS,
    total_steps=NUMBERS,
    durable=LEDGERS,
    created_ns=NUMBERS,
)
ROLLOUT_STATISTICS = st.builds(
    events.RolloutStatistics,
    group_number=NUMBERS,
    index=st.integers(0, 7),
    mean_logprob=REALS,
    mean_entropy=REALS,
    clip_fraction=REALS,
    mean_kl=REALS,
)
STEP_EVENTS = st.builds(
    events.StepReport,
    run=NAMES,
    step=st.integers(1, 2**40),
    total_steps=NUMBERS,
    metrics=VALUES,
    layer_grad_norms=VALUES,
    phase_seconds=VALUES,
    rollouts=st.lists(ROLLOUT_STATISTICS, max_size=3).map(tuple),
    outcomes=OUTCOME_LISTS,
    num_completion_tokens=NUMBERS,
    created_ns=NUMBERS,
)
COMMAND_EVENTS = st.builds(
    events.Command,
    run=NAMES,
    id=NAMES,
    kind=st.sampled_from(events.CommandKind),
    verifier=NAMES,
    version=NAMES,
    sources=st.lists(NAMES, min_size=1, max_size=3).map(tuple),
    weights=VALUES,
    params_json=TEXTS,
    entry_point=TEXTS,
    components=st.lists(NAMES, max_size=3).map(tuple),
    code_sha256=TEXTS,
    from_earliest=st.booleans(),
    refusal=TEXTS,
    from_number=NUMBERS,
    from_version=NUMBERS,
    reason=TEXTS,
    total_steps=st.integers(1, 2**40),
    created_ns=NUMBERS,
)
LOADS = st.builds(events.VerifierLoad, verifier=NAMES, version=NAMES, num_scored=NUMBERS)
PART_EVENTS = st.builds(
    events.PartStatus,
    run=NAMES,
    part=st.sampled_from(events.Part),
    instance=NAMES,
    state=st.sampled_from(events.PartState),
    waiting_for=TEXTS,
    since_ns=NUMBERS,
    started_ns=NUMBERS,
    created_ns=NUMBERS,
    address=TEXTS,
    measures=VALUES,
    verifiers=st.lists(LOADS, max_size=3).map(tuple),
    epoch=NUMBERS,
)
DEAD_LETTER_EVENTS = st.builds(
    events.DeadLetter,
    run=NAMES,
    topic=NAMES,
    partition=st.integers(0, 100),
    offset=NUMBERS,
    key=st.binary(max_size=10),
    value=st.binary(max_size=30),
    headers=st.dictionaries(NAMES, st.binary(max_size=10), max_size=3),
    error=TEXTS,
    part=NAMES,
    created_ns=NUMBERS,
)

EVENTS: tuple[tuple[Topic[Any], st.SearchStrategy[Any]], ...] = (
    (PROMPTS, PROMPT_EVENTS),
    (ROLLOUTS, ROLLOUT_EVENTS),
    (REWARDS, REWARD_EVENTS),
    (OUTCOMES, outcomes()),
    (POLICY, POLICY_EVENTS),
    (STEPS, STEP_EVENTS),
    (COMMANDS, COMMAND_EVENTS),
    (PARTS, PART_EVENTS),
    (DEAD_LETTERS, DEAD_LETTER_EVENTS),
)

COMMITS = st.builds(
    batches.Commit,
    ledger=LEDGERS,
    steps=st.lists(st.builds(batches.CommittedStep, step=NUMBERS, outcomes=OUTCOME_LISTS), max_size=3).map(tuple),
)


@st.composite
def training_groups(draw: st.DrawFn) -> batches.TrainingGroup:
    """A group whose segments share images, as the rollouts of one prompt do."""
    images = draw(st.lists(IMAGES, min_size=1, max_size=3, unique_by=lambda image: image.sha256))
    given = given_segments(st.sampled_from(images))
    turns = st.tuples(given, sampled_segments(min_tokens=1), given | sampled_segments())
    rollouts = st.builds(
        batches.TrainingRollout,
        index=st.integers(0, 7),
        segments=turns,
        temperature=st.floats(0.01, 2.0),
        is_truncated=st.booleans(),
    )
    return batches.TrainingGroup(group=draw(GROUPS), rollouts=tuple(draw(st.lists(rollouts, max_size=3))))


BATCHES = st.builds(
    batches.Batch,
    step=NUMBERS,
    rank=st.integers(0, 63),
    groups=st.lists(training_groups(), max_size=2).map(tuple),
    outcomes=OUTCOME_LISTS,
    num_global_tokens=st.integers(1, 2**40),
    num_global_rollouts=st.integers(0, 2**20),
    dropped=st.lists(NUMBERS, max_size=3).map(tuple),
    position=POSITIONS,
)
