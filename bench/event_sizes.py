"""How many bytes the bus carries for a rollout: real events of the demo, encoded as the parts encode them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.null_stream.learner import NO_MODEL
from bench.one_process import OneProcess

from tristream.config.run_file import RunFile
from tristream.learner.reports import step_report
from tristream.wire.topics import OUTCOMES, PROMPTS, REWARDS, ROLLOUTS, STEPS, Topic, record_headers


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicBytes:
    """What one topic carries."""

    topic: str
    num_events: int
    bytes_per_event: float
    bytes_per_rollout: float


def measure_event_sizes(settings: RunFile, *, num_steps: int) -> list[TopicBytes]:
    """Run steps in this process, which must be a fresh one, and encode the events that they would publish.

    Left out are policy versions, statuses of parts and dead letters: they do not grow with the rollouts.
    """
    run = OneProcess(settings)
    steps = [run.run_step(step) for step in range(1, num_steps + 1)]
    trained = [outcome for step in steps for outcome in step.outcomes]
    reports = [step_report(settings.run, step.batch, step.outcomes, step.result, {}, NO_MODEL) for step in steps]
    sampler = run.sampler
    events: list[tuple[Topic[Any], Sequence[Any]]] = [
        (PROMPTS, sampler.prompts),
        (ROLLOUTS, sampler.rollouts),
        (REWARDS, sampler.rewards),
        (OUTCOMES, [*trained, *sampler.drops]),
        (STEPS, reports),
    ]
    return [_sizes(topic, of_topic, len(sampler.rollouts)) for topic, of_topic in events]


def _sizes(topic: Topic[Any], events: Sequence[Any], num_rollouts: int) -> TopicBytes:
    """Bytes of values, keys and headers."""
    total = sum(
        len(topic.codec.encode(event))
        + len(topic.key(event).encode())
        + sum(len(name.encode()) + len(value.encode()) for name, value in record_headers(topic, event).items())
        for event in events
    )
    return TopicBytes(
        topic=topic.name,
        num_events=len(events),
        bytes_per_event=total / len(events),
        bytes_per_rollout=total / num_rollouts,
    )
