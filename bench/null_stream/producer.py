"""A producer that computes nothing, as a process; on wish it scores its own rollouts.

    python -m bench.null_stream.producer --run RUN.json --equal-share 0.3 [--scores]

Everything but the engine is the producer itself. With ``--scores`` no verifier is needed: each rollout is followed
by the reward that the verifier would give.
"""

import argparse
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bench.null_stream.engine import NullEncoder, NullEngine
from bench.null_stream.rows import RIGHT

from tristream.cli.main import end_in_one_line
from tristream.config.load import load_run_file
from tristream.config.parts import ProducerSettings
from tristream.producer.producer import Producer
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.runtime.store import open_store
from tristream.wire.events import Part, PartState, Reward, Rollout, Status
from tristream.wire.topics import REWARDS, ROLLOUTS, Topic

EventT = TypeVar("EventT")


class ScoringBus(KafkaBus):
    """A bus on which each rollout is followed by its rewards."""

    def publish(self, topic: Topic[EventT], event: EventT) -> "Future[None]":
        """Send an event, and the rewards of a rollout after it."""
        sent = super().publish(topic, event)
        if topic is ROLLOUTS and isinstance(event, Rollout):
            for reward in score(event):
                super().publish(REWARDS, reward)
        return sent


def score(rollout: Rollout) -> list[Reward]:
    """The rewards of a rollout of the null engine."""
    is_right = rollout.num_sampled_tokens > 0 and rollout.segments[-1].tokens.to_list()[0] == RIGHT
    return [
        Reward(
            group=rollout.group,
            index=rollout.index,
            term_id=term.id,
            verifier=term.verifier,
            version=term.version,
            mode=term.mode,
            status=Status.SCORED,
            components={"accuracy": float(is_right), "format": 1.0},
            metrics={},
            queued_seconds=0.0,
            score_seconds=0.0,
            created_ns=time.time_ns(),
        )
        for term in rollout.reward.terms
    ]


def main() -> None:
    """Answer prompts until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--equal-share", type=float, default=0.0, help="share of groups whose answers are all equal")
    parser.add_argument("--scores", action="store_true", help="publish the rewards too")
    arguments = parser.parse_args()
    settings = ProducerSettings.of(load_run_file(arguments.run, environment={}))
    _log, stop = start_part(Part.PRODUCER)
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.PRODUCER)
    say = partial(reporter.report, PartState.STARTING)
    bus_kind: type[KafkaBus] = ScoringBus if arguments.scores else KafkaBus
    bus = bus_kind(settings.run.id, settings.bus, Part.PRODUCER, stop=stop, say=say)
    try:
        reporter.connect_to(bus)
        reporter.start_beating()
        bus.create_topics()
        store = open_store(settings.store, settings.run.folder)
        engine: Any = NullEngine(equal_share=arguments.equal_share)
        encoder: Any = NullEncoder()
        Producer(settings.rollout, bus, store, encoder, engine, reporter).run(stop)
    finally:
        bus.close()


if __name__ == "__main__":
    end_in_one_line(main)
