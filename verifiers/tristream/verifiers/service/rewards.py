"""Rewards as pure functions of a rollout, a term and a verdict."""

import time
from dataclasses import replace

from tristream.verifiers.pool.tasks import Judgement, Verdict, VerifierFacts
from tristream.verifiers.pool.texts import clean
from tristream.wire.events import Reward, RewardTerm, Rollout, Status

NOTHING = Judgement()


def make_reward(rollout: Rollout, term: RewardTerm, verdict: Verdict, judgement: Judgement = NOTHING) -> Reward:
    """The reward of one term of a rollout; it was queued from the rollout's creation until its scoring began."""
    now_ns = time.time_ns()
    return Reward(
        group=rollout.group,
        index=rollout.index,
        term_id=term.id,
        verifier=term.verifier,
        version=term.version,
        mode=term.mode,
        status=verdict.status,
        detail=verdict.detail,
        components=judgement.components,
        abstained=judgement.abstained,
        metrics=judgement.metrics,
        params_json=judgement.params_json,
        queued_seconds=max(0.0, (now_ns - rollout.created_ns) / 1e9 - verdict.wall_seconds),
        score_seconds=verdict.wall_seconds,
        created_ns=now_ns,
    )


def judgement_of(verdict: Verdict, place: int, facts: VerifierFacts, *, zero_on_timeout: bool) -> Judgement:
    """What a verdict says of one of its rollouts.

    Args:
        verdict: what came of the task.
        place: which rollout of the task it is.
        facts: of the verifier.
        zero_on_timeout: whether an answer on which the verifier used up its limits counts as a wrong one, if the
            truth is fine.
    """
    if verdict.status is Status.SCORED:
        return verdict.judgements[place]
    if verdict.status is Status.TIMEOUT and verdict.is_truth_fine and zero_on_timeout:
        return Judgement(components={name: min(max(0.0, low), high) for name, (low, high) in facts.components.items()})
    return NOTHING


def without_details(reward: Reward, reason: str) -> Reward:
    """The reward that stands for one that no record can hold: an error, and why."""
    return replace(
        reward, status=Status.ERROR, detail=clean(reason), components={}, abstained=(), metrics={}, params_json="{}"
    )
