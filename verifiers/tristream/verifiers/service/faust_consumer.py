"""Faust's Kafka consumer, handing out whole batches (faust-streaming 0.15.3).

    broker -> Faust's fetch thread -> batch -> handle(batch) -> its offsets -> commit, every second

The stock consumer turns each record into an event of a stream, with tasks, sensors and acknowledgements of its own,
which costs more than all that a verifier does with it. This one keeps what Faust knows of Kafka, its fetching, its
groups and its rebalances, and hands the records of a fetch to one function, batch after batch:

- what is committed is what the function has returned for, never a record that is still being handled;
- a batch in hand is finished, and committed, before its partitions go to another worker or the app stops;
- once the function has raised nothing is handed out any more, so that everything in hand is read again;
- a commit that the broker does not take is made again later: neither an outage nor a rebalance ends the app.

It fetches with a short wait: the stock wait of 1.5 s is not interrupted by every broker.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from mode.threads import WorkerThread

from tristream.runtime.hooks import reach

LOG = logging.getLogger("tristream.verifier")

FINISH_SECONDS = 3.0
"""Longest that a rebalance or a stop waits for the batch in hand; what takes longer is read again."""
COMMIT_SECONDS = 0.9
"""Longest that a commit is waited for: until the next one is due."""
FETCH_SECONDS = 0.3
"""Longest that the consumer waits for records before it counts as idle."""
IDLE_WAIT_FACTOR = 3
"""An idle consumer lets the broker hold its fetches so much longer: each of them costs."""
MAX_IDLE_WAIT_MS = 100

HandleBatch = Callable[[Sequence[Any]], Awaitable[None]]
"""Handles records of aiokafka, those of a partition in the order of the log."""


class DaemonThread(WorkerThread):  # type: ignore[misc]
    """A thread that does not keep its process alive: one that is stuck at a broker never ends."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - untyped library
        super().__init__(*arguments, **options)
        self.daemon = True


class FastFetchThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Makes the consumer with the fetch wait of the app, and survives commits that fail."""

    Worker = DaemonThread
    _commit_task: asyncio.Future[Any] | None = None

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:  # noqa: ANN401 - untyped library
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.consumer.fetch_max_wait_ms
        return consumer

    def set_fetch_wait(self, wait_ms: int) -> None:
        """How long the broker may hold the fetches from now on that find nothing."""
        self._ensure_consumer()._fetcher._fetch_max_wait_ms = wait_ms

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        if self._commit_task is not None and not self._commit_task.done():
            return False  # a broker that is away has not answered the last one
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        commits = {tp: OffsetAndMetadata(offset, "") for tp, offset in offsets.items() if tp in assigned}
        self._commit_task = asyncio.ensure_future(consumer.commit(commits))
        self._commit_task.add_done_callback(_note_commit)
        await asyncio.wait([self._commit_task], timeout=COMMIT_SECONDS)
        return self._commit_task.done() and _error_of(self._commit_task) is None


class BatchConsumer(Consumer):  # type: ignore[misc]
    """Hands out batches and commits what was handled; made by ``consumer_class``."""

    fetch_max_wait_ms: int
    handle: HandleBatch

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - untyped library
        super().__init__(*arguments, **options)
        self._handled: dict[Any, int] = {}
        """Where the next batch of each partition begins."""
        self._in_hand: asyncio.Task[None] | None = None
        self._has_failed = False
        self._commit_lock = asyncio.Lock()

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ANN401
        """Commit what was handled since; False if there is nothing, or the broker does not take it now."""
        async with self._commit_lock:
            news = {tp: offset for tp, offset in self._handled.items() if offset > (self._committed_offset[tp] or 0)}
            if not news or not await self._commit(news):
                return False
            self._committed_offset.update(news)
            return True

    async def wait_empty(self) -> None:
        """Finish the batch in hand and commit it, as far as there is time."""
        if self._in_hand is not None:
            await asyncio.wait([self._in_hand], timeout=FINISH_SECONDS)
        await self.commit()

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Called once the batch in hand is finished and before the partitions go."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self._handled.pop(tp, None)

    async def verify_all_partitions_active(self) -> None:
        """Nothing to watch: what Faust looks for are streams that stand still, and there are none."""

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        reach("commit")
        return bool(await super()._commit(offsets))

    def _new_consumer_thread(self) -> FastFetchThread:
        return FastFetchThread(self, loop=self.loop, beacon=self.beacon)

    async def _drain_messages(self, fetcher: Any) -> None:  # noqa: ANN401
        """Fetch and hand out until the fetcher or the consumer stops; Faust starts it anew after a rebalance."""
        try:
            while not (self.should_stop or fetcher.should_stop or self._has_failed):
                if self._in_hand is not None:
                    await asyncio.shield(self._in_hand)
                records, _partitions = await self._wait_next_records(FETCH_SECONDS)
                if self.should_stop or self._has_failed:
                    return
                self._thread.set_fetch_wait(self._wait_ms(is_idle=not records))
                if records and self.flow_active:  # else the partitions move, and are read from their commits again
                    await self._hand_out(records)
        except self.consumer_stopped_errors:
            if not self.should_stop:
                raise

    def _wait_ms(self, *, is_idle: bool) -> int:
        wait_ms = self.fetch_max_wait_ms
        return max(wait_ms, min(IDLE_WAIT_FACTOR * wait_ms, MAX_IDLE_WAIT_MS)) if is_idle else wait_ms

    async def _hand_out(self, records: Mapping[Any, Sequence[Any]]) -> None:
        self._in_hand = asyncio.create_task(self._handle(records, self.app.consumer_generation_id))
        await asyncio.shield(self._in_hand)

    async def _handle(self, records: Mapping[Any, Sequence[Any]], generation: int) -> None:
        try:
            await self.handle([record for batch in records.values() for record in batch])
        except Exception:
            self._has_failed = True  # whoever gave the function knows why
            return
        if self.app.consumer_generation_id == generation:
            self._handled.update({tp: batch[-1].offset + 1 for tp, batch in records.items() if batch})


def _error_of(done: "asyncio.Future[Any]") -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()


def _note_commit(done: "asyncio.Future[Any]") -> None:
    error = _error_of(done)
    if error is not None:
        LOG.debug("a commit failed and is made again: %r", error)


def consumer_class(handle: HandleBatch, fetch_max_wait_ms: int) -> type[BatchConsumer]:
    """The consumer of an app, for ``app.transport.Consumer``; Faust makes it without arguments of ours."""
    options = {"fetch_max_wait_ms": fetch_max_wait_ms, "handle": staticmethod(handle)}
    return type("Consumer", (BatchConsumer,), options)
