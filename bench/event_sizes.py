"""How many bytes the bus carries for a rollout: real events of the demo, encoded as the parts encode them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.one_process import OneProcess

from tristream.config.run_file import RunFile
from tristream.learner.reports import committed_step, step_report
from tristream.wire.events import Fate, Outcome
from tristream.wire.topics import OUTCOMES, PROMPTS, REWARDS, ROLLOUTS, STEPS, Topic


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicBytes:
    """What one topic carries."""

    topic: str
    num_events: int
    bytes_per_event: float
    bytes_per_rollout: float


def measure_event_sizes(settings: RunFile, *, num_steps: int) -> list[TopicBytes]:
    """Run steps in this process, which must be a fresh one, and encode the events that they would publish.

    Left out are policy versions, heartbeats of verifiers and dead letters: they do not grow with the rollouts.
    """
    run = OneProcess(settings)
    trained: list[Outcome] = []
    reports = []
    for step in range(1, num_steps + 1):
        batch, result = run.run_step(step)
        trained.extend(committed_step(batch).outcomes)
        reports.append(step_report(settings, batch, result, {}))
    sampler = run.sampler
    dropped = [
        Outcome(
            group=rejection.group,
            fate=Fate.DROPPED,
            reason=rejection.reason,
            rollouts=rejection.outcomes,
            oldest_version=rejection.oldest_version,
            created_ns=time.time_ns(),
        )
        for rejection in sampler.rejections
    ]
    events: list[tuple[Topic[Any], Sequence[Any]]] = [
        (PROMPTS, sampler.prompts),
        (ROLLOUTS, sampler.rollouts),
        (REWARDS, sampler.rewards),
        (OUTCOMES, [*trained, *dropped]),
        (STEPS, reports),
    ]
    return [_sizes(topic, of_topic, len(sampler.rollouts)) for topic, of_topic in events]


def _sizes(topic: Topic[Any], events: Sequence[Any], num_rollouts: int) -> TopicBytes:
    """Bytes of values, keys and headers."""
    total = sum(
        len(topic.codec.encode(event))
        + len(topic.key(event).encode())
        + sum(len(name.encode()) + len(value.encode()) for name, value in topic.headers(event).items())
        for event in events
    )
    return TopicBytes(
        topic=topic.name,
        num_events=len(events),
        bytes_per_event=total / len(events),
        bytes_per_rollout=total / num_rollouts,
    )
