"""The verifier as a Faust app: rollouts in, rewards out, at least once.

    rollouts --take--> batch --handle--> RolloutScorer --ack of the broker--> commit
                                          |     |
                                     rewards   deadletter          parts <-- status

A batch counts as handled when the broker has every reward of it. One stream at concurrency 1: the
batch is the parallelism. Rewards are published one by one, so a slow rollout delays the commit and
the next batch but no reward of its own batch. Faust publishes the rewards, since its producer costs a third
of the bus's; what is rare, statuses and dead letters, takes the bus.
"""

import asyncio
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import faust

from tristream.config.parts import VerifierSettings
from tristream.runtime.bus.protocol import Bus, Record
from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.runtime.status import PartReporter
from tristream.verifiers.service.faust_consumer import SafeConsumer
from tristream.verifiers.service.pool import Pool
from tristream.verifiers.service.scoring import CompleteParams, RolloutScorer
from tristream.verifiers.verifier import Verifier
from tristream.wire.events import PartState, Reward, Status, VerifierLoad
from tristream.wire.topics import MAX_RECORD_BYTES, REWARDS, ROLLOUTS, Topic, record_headers

TAKE_SECONDS = 0.01
"""A batch that is not full is handled after this time."""
REPORT_SECONDS = 0.2
STREAM_BUFFER_RECORDS = 256


class WorkerCrashedError(Exception):
    """The app stopped by itself; the process has to be started again."""


class VerifierWorker:
    """Runs the app that serves one set of verifier versions, given by ``NAME@VERSION``; dead letters go to ``bus``."""

    def __init__(
        self,
        settings: VerifierSettings,
        served: Mapping[str, type[Verifier]],
        pool: Pool,
        bus: Bus,
        *,
        reporter: PartReporter,
        complete_params: CompleteParams | None = None,
    ) -> None:
        self._settings = settings
        self._served = served
        self._pool = pool
        self._reporter = reporter
        self._failure: BaseException | None = None
        self.app = make_app(settings, group_name(settings, served))
        self._rollouts = self._channel(ROLLOUTS)
        self._rewards = self._channel(REWARDS)
        self.scorer = RolloutScorer(served, pool, self.publish, bus=bus, complete_params=complete_params)
        self.app.agent(self._rollouts, name="verify", concurrency=1)(self._verify)
        self.app.on_partitions_assigned.connect(self._join)
        self._has_joined = False

    async def run(self, stop: threading.Event) -> None:
        """Serve until the event is set.

        Raises:
            UserError: the run's log was begun under another contract.
            WorkerCrashedError: the app stopped by itself.
        """
        servers = self._settings.bus.bootstrap_servers
        self._reporter.report(PartState.STARTING, f"partitions of {self._rollouts.get_topic_name()} from {servers}")
        await self.app.start()
        try:
            while not stop.is_set() and not self.app.should_stop:
                self._report()
                await asyncio.sleep(REPORT_SECONDS)
            if isinstance(self._failure, UserError):
                raise self._failure
            if not stop.is_set():
                raise WorkerCrashedError("the Faust app stopped by itself") from self._failure
        finally:
            await self.app.stop()

    async def publish(self, reward: Reward) -> None:
        """Send a reward and wait until the broker has it."""
        reach(f"publish.{REWARDS.name}")
        sent = await self._rewards.send(
            key=REWARDS.key(reward).encode(),
            value=REWARDS.codec.encode(reward),
            headers={name: value.encode() for name, value in record_headers(REWARDS, reward).items()},
        )
        await sent

    async def _verify(self, stream: Any) -> None:  # noqa: ANN401 - untyped library
        async for events in stream.take_events(self._settings.verification.batch_size, within=TAKE_SECONDS):
            try:
                await self.scorer.handle([to_record(event.message) for event in events])
            except BaseException as error:
                self._failure = error
                self.app.consumer.refuse_acks()
                raise

    def _channel(self, topic: Topic[Any]) -> Any:  # noqa: ANN401 - untyped library
        name = topic.full_name(self._settings.bus.prefix, self._settings.run.id)
        return self.app.topic(
            name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw", allow_empty=True
        )

    async def _join(self, *_sender: Any, **_assigned: Any) -> None:  # noqa: ANN401 - untyped library
        """Called when the group has given us our partitions, possibly none of them."""
        self._has_joined = True

    def _report(self) -> None:
        is_member = self._has_joined and not self.app.rebalancing
        scorer = self.scorer
        self._reporter.report(
            PartState.READY if is_member else PartState.STARTING,
            "rollouts" if is_member else f"partitions of {self._rollouts.get_topic_name()}",
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


def group_name(settings: VerifierSettings, served: Iterable[str]) -> str:
    """Consumer group: workers that serve the same ``NAME@VERSION`` share the rollouts."""
    return f"{settings.bus.prefix}.{settings.run.id}.verifier.{'-'.join(sorted(served))}"


def make_app(settings: VerifierSettings, group: str) -> Any:  # noqa: ANN401 - untyped library
    """The Faust app: at-least-once, no tables, no web server, no topics of its own."""
    session_seconds = settings.bus.session_timeout_seconds
    app = faust.App(
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
        broker_max_poll_records=STREAM_BUFFER_RECORDS,
        stream_buffer_maxsize=STREAM_BUFFER_RECORDS,
        producer_max_request_size=MAX_RECORD_BYTES,
        producer_request_timeout=120.0,
    )
    app.transport.Consumer = type(
        "Consumer", (SafeConsumer,), {"fetch_max_wait_ms": int(settings.bus.fetch_wait_seconds * 1000)}
    )
    return app


def to_record(message: Any) -> Record[bytes]:  # noqa: ANN401 - untyped library
    """A Faust message of the rollouts topic as a plain record."""
    return Record(
        topic=ROLLOUTS.name,
        partition=message.partition,
        offset=message.offset,
        key=(message.key or b"").decode(errors="replace"),
        event=message.value or b"",
        headers=dict(message.headers or ()),
    )
