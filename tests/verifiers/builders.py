"""Rollouts and requests for tests."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tristream.verifiers.service.child import Task
from tristream.verifiers.verifier import ScoringRequest
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import (
    FinishReason,
    Group,
    Image,
    Progress,
    RewardSpec,
    RewardTerm,
    Rollout,
    Split,
    TermMode,
    VersionSpan,
    given,
    sampled,
)

RUN = "unit"


def make_scoring_request(
    text: str,
    ground_truth: str,
    params: Mapping[str, Any] | None = None,
    *,
    step: int = 1,
    total_steps: int = 100,
) -> ScoringRequest:
    return ScoringRequest(
        text=text,
        prompt_text="a prompt",
        ground_truth=ground_truth,
        params=params or {},
        step=step,
        total_steps=total_steps,
    )


def make_task(verifier: str, text: str, ground_truth: str, *, params_json: str = "{}", step: int = 1) -> Task:
    return Task(
        verifier=verifier,
        text=text,
        prompt_text="a prompt",
        ground_truth=ground_truth,
        params_json=params_json,
        step=step,
        total_steps=100,
    )


def make_term(
    verifier: str = "misbehaving",
    version: str = "7",
    *,
    term_id: str = "",
    params_json: str = "{}",
    mode: TermMode = TermMode.ACTIVE,
) -> RewardTerm:
    return RewardTerm(
        id=term_id or verifier,
        verifier=verifier,
        version=version,
        weights={"accuracy": 1.0},
        params_json=params_json,
        mode=mode,
    )


def make_rollout(
    text: str,
    ground_truth: str = "x",
    *,
    terms: Sequence[RewardTerm] = (make_term(),),
    number: int = 0,
    run: str = RUN,
    images: tuple[Image, ...] = (),
    num_tokens: int = 2,
) -> Rollout:
    return Rollout(
        group=Group(run=run, split=Split.TRAIN, number=number, source="shapes", sample_id=f"s{number}", size=8),
        index=3,
        segments=(
            given(Tokens.of([1, 2]), images),
            sampled(
                Tokens.of(range(num_tokens)),
                LogProbs.of([-0.5] * num_tokens),
                (VersionSpan(version=0, start=0, end=num_tokens),),
            ),
        ),
        text=text,
        finish_reason=FinishReason.STOP,
        prompt_text="a prompt",
        reward=RewardSpec(terms=tuple(terms), ground_truth=ground_truth),
        progress=Progress(step=12, total_steps=100),
        temperature=1.0,
        queued_seconds=0.0,
        generate_seconds=0.5,
        producer="p0",
        created_ns=time.time_ns(),
    )
