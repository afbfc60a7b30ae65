"""The verifier as a Faust app: rollouts in, rewards out, at least once.

    rollouts --fetch--> batch --handle--> RolloutScorer --ack of the broker--> commit
                                          |     |
                                     rewards   deadletter          parts <-- status

A batch counts as handled when the broker has every reward of it; the batch is the parallelism. Rewards are published
one by one, so a slow rollout delays the commit and the next batch but no reward of its own batch. Faust reads and
keeps the place in the log; everything that is written takes the bus, which waits for a broker that is away.
"""

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import faust

from tristream.config.parts import VerifierSettings
from tristream.runtime.bus.protocol import Bus, BusError, Record
from tristream.runtime.errors import StoppedError, TryAgainError, UserError
from tristream.runtime.status import PartReporter
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.verifiers.service.faust_consumer import consumer_class
from tristream.verifiers.service.pool import Pool
from tristream.verifiers.service.scoring import RolloutScorer
from tristream.verifiers.verifier import Verifier
from tristream.wire.events import PartState, Status, VerifierLoad
from tristream.wire.topics import MAX_RECORD_BYTES, ROLLOUTS

REPORT_SECONDS = 0.2


class VerifierWorker:
    """Runs the app that serves one set of verifier versions, given by ``NAME@VERSION``; it writes to ``bus``."""

    def __init__(
        self,
        settings: VerifierSettings,
        served: Mapping[str, type[Verifier]],
        pool: Pool,
        bus: Bus,
        *,
        reporter: PartReporter,
        image_sizes: ImageSizes,
    ) -> None:
        self._settings = settings
        self._served = served
        self._pool = pool
        self._reporter = reporter
        self._image_sizes = image_sizes
        self._failure: BaseException | None = None
        self.scorer = RolloutScorer(served, pool, bus, complete_params=image_sizes.complete)
        self.app = make_app(settings, group_name(settings, served))
        self.app.transport.Consumer = consumer_class(self._handle, int(settings.bus.fetch_wait_seconds * 1000))
        self._topic_name = ROLLOUTS.full_name(settings.bus.prefix, settings.run.id)
        # Faust subscribes to the topics of its agents and starts no app without one; the batches go past it.
        self.app.agent(self.app.topic(self._topic_name, value_serializer="raw"), name="verify")(_read_nothing)
        self.app.on_partitions_assigned.connect(self._join)
        self._has_joined = False

    async def run(self, stop: threading.Event) -> None:
        """Serve until the event is set.

        Raises:
            UserError: the run's log was begun under another contract.
            TryAgainError: the app stopped by itself; start the process again.
            BusError: the broker refused what was published.
        """
        servers = self._settings.bus.bootstrap_servers
        self._reporter.report(PartState.STARTING, f"partitions of {self._topic_name} from {servers}")
        try:
            await self.app.start()
            while not stop.is_set() and not self.app.should_stop and self._failure is None:
                self._report()
                await asyncio.sleep(REPORT_SECONDS)
            self._raise_unless(stopped=stop.is_set())
        finally:
            await self.app.stop()

    async def _handle(self, messages: Sequence[Any]) -> None:
        try:
            await self.scorer.handle([to_record(message) for message in messages])
        except BaseException as error:
            self._failure = error
            raise

    def _raise_unless(self, *, stopped: bool) -> None:
        """Raise what ended the app, unless it was told to end."""
        if isinstance(self._failure, UserError | BusError | TryAgainError):
            raise self._failure
        if not stopped and not isinstance(self._failure, StoppedError):
            raise TryAgainError(f"the Faust app stopped by itself: {self._failure!r}") from self._failure

    async def _join(self, *_sender: Any, **_assigned: Any) -> None:  # noqa: ANN401 - untyped library
        """Called when the group has given us our partitions, possibly none of them."""
        self._has_joined = True

    def _report(self) -> None:
        is_member = self._has_joined and not self.app.rebalancing
        scorer = self.scorer
        self._reporter.report(
            PartState.READY if is_member else PartState.STARTING,
            (self._image_sizes.waiting_for or "rollouts") if is_member else f"partitions of {self._topic_name}",
            measures={
                **{f"num_{status}": scorer.num_by_status[status] for status in Status},
                "num_dead_letters": scorer.num_dead_letters,
                "num_restarts": self._pool.num_restarts,
            },
            verifiers=tuple(
                VerifierLoad(verifier=verifier.name, version=verifier.version, num_scored=scorer.num_scored[name])
                for name, verifier in self._served.items()
            ),
        )


async def _read_nothing(stream: Any) -> None:  # noqa: ANN401 - untyped library
    async for _ in stream:
        raise AssertionError("the consumer gives its records to nobody but the worker")


def group_name(settings: VerifierSettings, served: Iterable[str]) -> str:
    """Consumer group: workers that serve the same ``NAME@VERSION`` share the rollouts."""
    return f"{settings.bus.prefix}.{settings.run.id}.verifier.{'-'.join(sorted(served))}"


def make_app(settings: VerifierSettings, group: str) -> Any:  # noqa: ANN401 - untyped library
    """The Faust app: at-least-once, no tables, no web server, no topics of its own."""
    session_seconds = settings.bus.session_timeout_seconds
    return faust.App(
        group,
        broker=[f"kafka://{server.strip()}" for server in settings.bus.bootstrap_servers.split(",")],
        autodiscover=False,
        store="memory://",
        datadir=settings.run.folder.faust,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        agent_supervisor="mode.CrashingSupervisor",
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=MAX_RECORD_BYTES,
        broker_session_timeout=session_seconds,
        broker_heartbeat_interval=min(1.0, session_seconds / 6),
        broker_rebalance_timeout=session_seconds + settings.verification.deadline_seconds,
        broker_commit_interval=1.0,
        broker_max_poll_records=settings.verification.batch_size,
        stream_wait_empty=True,
    )


def to_record(message: Any) -> Record[bytes]:  # noqa: ANN401 - untyped library
    """A message of aiokafka from the rollouts topic as a plain record."""
    return Record(
        topic=ROLLOUTS.name,
        partition=message.partition,
        offset=message.offset,
        key=(message.key or b"").decode(errors="replace"),
        event=message.value or b"",
        headers={name: value or b"" for name, value in message.headers},
        timestamp_ns=message.timestamp * 1_000_000,
    )
