"""The verifier as a Faust app: rollouts in, rewards out, at least once.

    rollouts --fetch--> Window --take--> RolloutScorer --ack of the broker--> settled --> commit of the low-water mark
                                         |     |
                                    rewards   deadletter          parts <-- status

As many rollouts are in hand as there are credits. Each counts as handled when the broker has every reward of it, so
one that takes long holds back the commit of its partition and no other rollout. Faust reads and keeps the place in the
log; everything that is written takes the bus, which waits for a broker that is away.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import faust

from tristream.config.parts import VerifierSettings
from tristream.runtime.bus.protocol import Bus, BusError, Record
from tristream.runtime.errors import StoppedError, TryAgainError, UserError
from tristream.runtime.status import PartReporter
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.service.faust_consumer import FINISH_SECONDS, consumer_class
from tristream.verifiers.service.scoring import RolloutScorer
from tristream.verifiers.service.terms import Serving
from tristream.verifiers.service.window import Lane, Ticket, Window
from tristream.wire.events import PartState, Status, VerifierLoad
from tristream.wire.events.parts import LAG
from tristream.wire.topics import MAX_RECORD_BYTES, ROLLOUTS

REPORT_SECONDS = 0.2
ASYNC_WINDOW_FACTOR = 4
"""So many times more rollouts may wait for async verifiers than are computed at once."""
LEAVE_SECONDS = 1.0
"""What a rebalance takes beside what is finished for it."""
STUCK_SECONDS = 120.0
"""A worker that has waited so long for its partitions, while its broker answers, is better started again."""
SILENT_SECONDS = 2.0


class VerifierWorker:
    """Runs the app that serves one set of verifier versions; it writes to ``bus``.

    Args:
        settings: of the run.
        serving: what is served.
        pool: where the verifiers are called.
        bus: where the rewards go.
        make_scorer: makes the scorer of a window.
        reporter: is told what the worker does.
        waiting_for: says what a rollout waits for, such as the store; empty if none does.
    """

    def __init__(
        self,
        settings: VerifierSettings,
        serving: Serving,
        pool: Pool,
        bus: Bus,
        *,
        make_scorer: Callable[[Window], RolloutScorer],
        reporter: PartReporter,
        waiting_for: Callable[[], str] = str,
    ) -> None:
        self._settings = settings
        self._serving = serving
        self._pool = pool
        self._bus = bus
        self._reporter = reporter
        self._waiting_for = waiting_for
        size = settings.verification.window_size
        self._window = Window({Lane.PURE: size, Lane.ASYNC: ASYNC_WINDOW_FACTOR * size})
        self.scorer = make_scorer(self._window)
        self.app = make_app(settings, group_name(settings, serving.facts))
        self.app.transport.Consumer = consumer_class(
            self._window,
            self._take,
            self.scorer.forget,
            fetch_max_wait_ms=int(settings.bus.fetch_wait_seconds * 1000),
            batch_size=settings.verification.batch_size,
        )
        self._topic_name = ROLLOUTS.full_name(settings.bus.prefix, settings.run.id)
        # Faust subscribes to the topics of its agents and starts no app without one; the records go past it.
        self.app.agent(self.app.topic(self._topic_name, value_serializer="raw"), name="verify")(_read_nothing)
        self.app.on_partitions_assigned.connect(self._join)
        self._has_joined = False
        self._member_seconds = time.monotonic()

    async def run(self, stop: threading.Event, done: threading.Event | None = None) -> None:
        """Serve until told to stop, or until the work is done.

        Raises:
            UserError: the run's log was begun under another contract.
            TryAgainError: the app stopped by itself, or does not come by its partitions; start the process again.
            BusError: the broker refused what was published.
            PoolError: nothing can be scored.
        """
        servers = self._settings.bus.bootstrap_servers
        self._reporter.report(PartState.STARTING, f"partitions of {self._topic_name} from {servers}")
        is_done = done.is_set if done is not None else bool
        self._member_seconds = time.monotonic()
        try:
            await self.app.start()
            while not (stop.is_set() or is_done() or self.app.should_stop or self._window.failure is not None):
                self._report()
                await asyncio.sleep(REPORT_SECONDS)
            self._raise_unless(ended=stop.is_set() or is_done())
        finally:
            await self.app.stop()
            self.scorer.close()

    def _take(self, messages: Sequence[tuple[Any, Ticket]]) -> None:
        self.scorer.take([(to_record(message), ticket) for message, ticket in messages])

    def _raise_unless(self, *, ended: bool) -> None:
        """Raise what ended the app, unless it was told to end."""
        failure = self._window.failure
        if isinstance(failure, UserError | BusError | TryAgainError):
            raise failure
        if not ended and not isinstance(failure, StoppedError):
            raise TryAgainError(f"the Faust app stopped by itself: {failure!r}") from failure

    async def _join(self, *_sender: Any, **_assigned: Any) -> None:  # noqa: ANN401 - untyped library
        """Called when the group has given us our partitions, possibly none of them."""
        self._has_joined = True

    def _report(self) -> None:
        is_member = self._has_joined and not self.app.rebalancing
        self._watch_membership(is_member=is_member)
        scorer = self.scorer
        self._reporter.report(
            PartState.READY if is_member else PartState.STARTING,
            (self._waiting_for() or "rollouts") if is_member else f"partitions of {self._topic_name}",
            measures={
                **{f"num_{status}": scorer.num_by_status[status] for status in Status},
                "num_dead_letters": scorer.num_dead_letters,
                "num_restarts": self._pool.num_restarts,
                "num_in_hand": self._window.num_in_works,
                **({f"{LAG}{ROLLOUTS.name}": float(self.app.consumer.lag())} if is_member else {}),
            },
            verifiers=tuple(
                VerifierLoad(verifier=facts.name, version=facts.version, num_scored=scorer.num_scored[name])
                for name, facts in self._serving.facts.items()
            ),
        )

    def _watch_membership(self, *, is_member: bool) -> None:
        """Faust gives up without a word where a rebalance takes longer than its requests may."""
        now = time.monotonic()
        if is_member or self._bus.silent_seconds > SILENT_SECONDS:
            self._member_seconds = now
        elif now - self._member_seconds > STUCK_SECONDS:
            self._window.fail(TryAgainError(f"no partitions of {self._topic_name} after {STUCK_SECONDS:.0f} s"))


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
        broker_rebalance_timeout=session_seconds + FINISH_SECONDS + LEAVE_SECONDS,
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
