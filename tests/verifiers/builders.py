"""Rollouts, terms and tasks for tests."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tristream.verifiers import contract
from tristream.verifiers.pool.tasks import Task
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import (
    FinishReason,
    Group,
    Image,
    Message,
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
PLUG_INS_FILE = Path(__file__).with_name("service_plug_ins.py")
PLUG_INS: Mapping[str, str] = {
    name: f"{PLUG_INS_FILE}:{function}"
    for name, function in {
        "deed@7": "deed_7",
        "strict@1": "strict",
        "panel@1": "panel",
        "judge@1": "judge",
        "looker@1": "looker",
    }.items()
}
"""Entry points of the verifiers of ``service_plug_ins.py``, but for ``deed@8``."""


def make_task(verifier: str, text: str, ground_truth: str = "", *, params_json: str = "{}", **fields: Any) -> Task:
    rollout = contract.Rollout(text=text, ground_truth=ground_truth, prompt_text="a prompt", **fields)
    return Task(verifier=verifier, rollouts=(rollout,), params_json=params_json)


def make_term(
    verifier: str = "deed",
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
    index: int = 3,
    size: int = 8,
    run: str = RUN,
    source: str = "shapes",
    images: tuple[Image, ...] = (),
    num_tokens: int = 2,
    messages: tuple[Message, ...] = (),
    columns_json: str = "{}",
) -> Rollout:
    return Rollout(
        group=Group(run=run, split=Split.TRAIN, number=number, source=source, sample_id=f"s{number}", size=size),
        index=index,
        segments=(
            given(Tokens.of([1, 2, 3]), images),
            sampled(
                Tokens.of(range(num_tokens)),
                LogProbs.of([-0.5] * num_tokens),
                (VersionSpan(version=0, start=0, end=num_tokens),),
            ),
        ),
        text=text,
        finish_reason=FinishReason.STOP,
        prompt_text="a prompt",
        reward=RewardSpec(terms=tuple(terms), ground_truth=ground_truth, columns_json=columns_json),
        progress=Progress(step=12, total_steps=100),
        temperature=1.0,
        queued_seconds=0.0,
        generate_seconds=0.5,
        producer="p0",
        messages=messages,
        created_ns=time.time_ns(),
    )
