"""Rollouts and requests for tests."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tristream.verifiers.verifier import Request
from tristream.wire.events import (
    FinishReason,
    Group,
    Progress,
    RewardSpec,
    RewardTerm,
    Rollout,
    Split,
    VersionSpan,
)

RUN = "unit"


def make_request(
    text: str,
    ground_truth: str,
    params: Mapping[str, Any] | None = None,
    *,
    step: int = 1,
    total_steps: int = 100,
    is_evaluation: bool = False,
) -> Request:
    return Request(
        text=text,
        prompt_text="a prompt",
        ground_truth=ground_truth,
        params=params or {},
        step=step,
        total_steps=total_steps,
        is_evaluation=is_evaluation,
    )


def make_rollout(
    text: str,
    ground_truth: str = "x",
    *,
    terms: Sequence[tuple[str, str]] = (("misbehaving", "{}"),),
    number: int = 0,
    run: str = RUN,
) -> Rollout:
    """A rollout that asks for ``(verifier, params_json)`` terms."""
    return Rollout(
        group=Group(run=run, split=Split.TRAIN, number=number, source="shapes", sample_id=f"s{number}", size=8),
        index=3,
        prompt_tokens=(1, 2),
        completion_tokens=(3, 4),
        logprobs=(-0.5, -0.25),
        version_spans=(VersionSpan(version=0, start=0, end=2),),
        text=text,
        finish_reason=FinishReason.STOP,
        images=(),
        prompt_text="a prompt",
        reward=RewardSpec(
            terms=tuple(
                RewardTerm(verifier=verifier, weights={"accuracy": 1.0}, params_json=params)
                for verifier, params in terms
            ),
            ground_truth=ground_truth,
        ),
        progress=Progress(step=12, total_steps=100),
        temperature=1.0,
        queued_seconds=0.0,
        generate_seconds=0.5,
        producer="p0",
        created_ns=time.time_ns(),
    )
