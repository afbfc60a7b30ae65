"""The verifier as a Faust app: rollouts in, rewards out, at least once.

    rollouts --take--> batch --handle--> RolloutScorer --ack of the broker--> commit
                                          |     |
                                     rewards   deadletter          verifiers <-- heartbeat

A batch counts as handled when the broker has every reward of it. One stream at concurrency 1: the
batch is the parallelism. Rewards are published one by one, so a slow rollout delays the commit and
the next batch but no reward of its own batch.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import faust

from tristream.config.run_file import RunFile
from tristream.runtime.status import StatusFile
from tristream.verifiers.service.faust_consumer import SafeConsumer
from tristream.verifiers.service.pool import Pool
from tristream.verifiers.service.scoring import PrepareParams, RawRecord, RolloutScorer
from tristream.verifiers.verifier import Verifier
from tristream.wire.events import Mode, Status, VerifierState
from tristream.wire.topics import ROLLOUTS, VERIFIERS, Topic

LOG = logging.getLogger("tristream.verifier")

EventT = TypeVar("EventT")

TAKE_SECONDS = 0.01
"""A batch that is not full is handled after this time."""
HEARTBEAT_SECONDS = 2.0
MAX_RECORD_BYTES = 8 * 2**20
STREAM_BUFFER_RECORDS = 256


class WorkerCrashedError(Exception):
    """The app stopped by itself; the process has to be started again."""


class VerifierWorker:
    """Runs the app of one set of verifiers."""

    def __init__(
        self,
        settings: RunFile,
        verifiers: Mapping[str, type[Verifier]],
        pool: Pool,
        *,
        status: StatusFile,
        prepare_params: PrepareParams | None = None,
    ) -> None:
        self._settings = settings
        self._verifiers = verifiers
        self._pool = pool
        self._status = status
        self.app = make_app(settings, group_name(settings))
        self._rollouts = self._channel(ROLLOUTS)
        self._channels: dict[str, Any] = {}
        self.scorer = RolloutScorer(verifiers, pool, self.publish, run=settings.run.id, prepare_params=prepare_params)
        self.app.agent(self._rollouts, name="verify", concurrency=1)(self._verify)
        self.app.on_partitions_assigned.connect(self._join)
        self._has_joined = False

    async def run(self, stop: threading.Event) -> None:
        """Serve until the event is set.

        Raises:
            WorkerCrashedError: the app stopped by itself.
        """
        servers = self._settings.bus.bootstrap_servers
        self._status.report("starting", f"partitions of {self._rollouts.get_topic_name()} from {servers}")
        await self.app.start()
        heartbeat = asyncio.create_task(self._beat())
        try:
            while not stop.is_set() and not self.app.should_stop:
                if heartbeat.done():
                    heartbeat.result()
                self._report()
                await asyncio.sleep(0.2)
            if not stop.is_set():
                raise WorkerCrashedError("the Faust app stopped by itself")
        finally:
            heartbeat.cancel()
            await self.app.stop()

    async def publish(self, topic: Topic[EventT], event: EventT) -> None:
        """Send an event and wait until the broker has it."""
        channel = self._channels.get(topic.name)
        if channel is None:
            channel = self._channels[topic.name] = self._channel(topic)
        sent = await channel.send(
            key=topic.key(event).encode(),
            value=topic.codec.encode(event),
            headers={name: value.encode() for name, value in topic.headers(event).items()},
        )
        await sent

    async def _verify(self, stream: Any) -> None:  # noqa: ANN401 - untyped library
        async for events in stream.take_events(self._settings.verification.batch_size, within=TAKE_SECONDS):
            try:
                await self.scorer.handle([to_record(event) for event in events])
            except BaseException:
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

    async def _beat(self) -> None:
        """Publish the state of each verifier again and again."""
        while True:
            for name, verifier in self._verifiers.items():
                state = VerifierState(
                    run=self._settings.run.id,
                    verifier=name,
                    version=verifier.version,
                    mode=Mode.ACTIVE,
                    num_scored=self.scorer.num_scored[name],
                    num_restarts=self._pool.num_restarts,
                    heartbeat_ns=time.time_ns(),
                )
                await self.publish(VERIFIERS, state)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    def _report(self) -> None:
        is_member = self._has_joined and not self.app.rebalancing
        counts = self.scorer.num_by_status
        self._status.report(
            "ready" if is_member else "starting",
            "rollouts" if is_member else f"partitions of {self._rollouts.get_topic_name()}",
            verifiers=list(self._verifiers),
            **{f"num_{status.value}": counts[status] for status in Status},
            num_dead_letters=self.scorer.num_dead_letters,
            num_restarts=self._pool.num_restarts,
        )


def group_name(settings: RunFile) -> str:
    """Consumer group: workers with the same verifiers share the rollouts."""
    names = "-".join(sorted(settings.verification.verifiers)) or "all"
    return f"{settings.bus.prefix}.{settings.run.id}.verifier.{names}"


def make_app(settings: RunFile, group: str) -> Any:  # noqa: ANN401 - untyped library
    """The Faust app: at-least-once, no tables, no web server, no topics of its own."""
    session_seconds = settings.bus.session_timeout_seconds
    app = faust.App(
        group,
        broker=[f"kafka://{server.strip()}" for server in settings.bus.bootstrap_servers.split(",")],
        autodiscover=False,
        store="memory://",
        datadir=settings.run.folder / "faust",
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


def to_record(event: Any) -> RawRecord:  # noqa: ANN401 - untyped library
    """A Faust event as a plain record."""
    message = event.message
    return RawRecord(
        partition=message.partition,
        offset=message.offset,
        key=message.key or b"",
        value=message.value,
        headers=dict(message.headers or ()),
    )
