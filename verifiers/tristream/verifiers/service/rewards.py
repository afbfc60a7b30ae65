"""Rewards as pure functions of a rollout, a term and a verdict."""

import time
from dataclasses import replace

from tristream.verifiers.service.child import Verdict
from tristream.wire.events import Reward, RewardTerm, Rollout, Status


def make_reward(rollout: Rollout, term: RewardTerm, verdict: Verdict) -> Reward:
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
        components=verdict.components,
        metrics=verdict.metrics,
        params_json=verdict.params_json,
        queued_seconds=max(0.0, (now_ns - rollout.created_ns) / 1e9 - verdict.score_seconds),
        score_seconds=verdict.score_seconds,
        created_ns=now_ns,
    )


def without_details(reward: Reward, reason: str) -> Reward:
    """The reward that stands for one that no record can hold: an error, and why."""
    return replace(reward, status=Status.ERROR, detail=reason, components={}, metrics={}, params_json="{}")
