"""Faust's Kafka consumer, handing out records as there is room for them (faust-streaming 0.15.3).

    broker -> Faust's fetch thread -> Window -> take(records) -> low-water marks -> commit, every second

The stock consumer turns each record into an event of a stream, with tasks, sensors and acknowledgements of its own,
which costs more than all that a verifier does with it. This one keeps what Faust knows of Kafka, its fetching, its
groups and its rebalances, and hands the records of a fetch to one function, which does not wait for them:

- what is committed of a partition is its low-water mark: every record below it is settled;
- what is in hand is finished, as far as there is time, and committed before partitions go to another worker or the
  app stops; the rest is read again;
- after a failure nothing is handed out or committed any more, so that everything in hand is read again;
- a commit that the broker does not take is made again later: neither an outage nor a rebalance ends the app;
- the records of a partition are taken one after the other. A fetch that is under way when partitions move can bring
  its records when the partition was sought to its committed offset already and the flow does not yet go on, and
  nobody would see them again: so each partition is sought to what comes next before it is fetched after that.

It fetches with a short wait: the stock wait of 1.5 s is not interrupted by every broker.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from mode.threads import WorkerThread

from tristream.runtime.hooks import reach
from tristream.verifiers.service.window import Ticket, Window

LOG = logging.getLogger("tristream.verifier")

FINISH_SECONDS = 3.0
"""Longest that a rebalance or a stop waits for what is in hand; what takes longer is read again."""
COMMIT_SECONDS = 0.9
"""Longest that a commit is waited for: until the next one is due."""
FETCH_SECONDS = 0.3
"""Longest that the consumer waits for records before it counts as idle."""
GATHER_SECONDS = 0.05
"""Longest that the room for a whole fetch is waited for; then what room there is will do."""
IDLE_WAIT_FACTOR = 3
"""An idle consumer lets the broker hold its fetches so much longer: each of them costs."""
MAX_IDLE_WAIT_MS = 100

TakeRecords = Callable[[Sequence[tuple[Any, Ticket]]], None]
"""Takes records of aiokafka in hand, those of a partition in the order of the log."""


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

    def set_most_records(self, number: int) -> None:
        """How many records the next fetch may bring."""
        self._ensure_consumer()._max_poll_records = number

    def find_highwater(self, tp: Any) -> int | None:  # noqa: ANN401
        """Where a partition ended at its newest fetch; None if it was not fetched yet, or is gone."""
        subscription = None if self._consumer is None else self._consumer._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        state = None if assignment is None else assignment._tp_state.get(tp)
        return None if state is None else state.highwater

    async def seek_all(self, offsets: Mapping[Any, int]) -> None:
        """Fetch partitions from these offsets on, if they are still ours."""
        await self.call_thread(self._seek_all, offsets)

    async def _seek_all(self, offsets: Mapping[Any, int]) -> None:
        consumer = self._ensure_consumer()
        assigned = consumer.assignment()
        for tp, offset in offsets.items():
            if tp in assigned:
                consumer.seek(tp, offset)

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


class WindowConsumer(Consumer):  # type: ignore[misc]
    """Hands out records and commits low-water marks; made by ``consumer_class``."""

    fetch_max_wait_ms: int
    batch_size: int
    window: Window
    take: TakeRecords
    forget: Callable[[], None]

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - untyped library
        super().__init__(*arguments, **options)
        self._committed: dict[Any, int] = {}
        """Offset that was committed last, by partition."""
        self._sought: dict[Any, int] = {}
        """Offset from which a partition was fetched again: what is still missing after that is not on the log."""
        self._must_seek = False
        """Whether records may have been fetched that were not taken."""
        self._commit_lock = asyncio.Lock()

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ANN401
        """Commit what was settled since; False if there is nothing, or the broker does not take it now."""
        async with self._commit_lock:
            if self.window.failure is not None:
                return False
            news = {tp: mark for tp, mark in self.window.marks().items() if mark != self._committed.get(tp)}
            if not news or not await self._commit(news):
                return False
            self._committed.update(news)
            return True

    async def wait_empty(self) -> None:
        """Finish what is in hand and commit it, as far as there is time."""
        await self.window.wait_until_idle(FINISH_SECONDS)
        await self.commit()

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """Called before the partitions go; what could be finished is committed when the app has heard of it."""
        await super().on_partitions_revoked(revoked)
        self._begin({})

    async def perform_seek(self) -> None:
        """Begin the partitions that have come at their committed offsets, before the flow goes on."""
        committed = await self.seek_to_committed()
        self._begin({tp: offset or 0 for tp, offset in committed.items()})

    async def verify_all_partitions_active(self) -> None:
        """Nothing to watch: what Faust looks for are streams that stand still, and there are none."""

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        reach("commit")
        return bool(await super()._commit(offsets))

    def lag(self) -> int:
        """Records of all its partitions that were not taken yet, as far as the broker said with what it gave."""
        lag = 0
        for tp in self.window.marks():
            span, end = self.window.span(tp), self._thread.find_highwater(tp)
            lag += max(0, end - span[1]) if span is not None and end is not None else 0
        return lag

    def _new_consumer_thread(self) -> FastFetchThread:
        return FastFetchThread(self, loop=self.loop, beacon=self.beacon)

    def _begin(self, starts: Mapping[Any, int]) -> None:
        self.forget()
        self.window.assign(starts)
        self._committed = dict(starts)
        self._sought = {}
        self._must_seek = True

    async def _drain_messages(self, fetcher: Any) -> None:  # noqa: ANN401
        """Fetch and hand out until the fetcher or the consumer stops; Faust starts it anew after a rebalance."""
        try:
            while not (self.should_stop or fetcher.should_stop or self.window.failure is not None):
                if not self.flow_active:
                    await self.wait(self.can_resume_flow)
                    continue
                if not await self._wait_for_room():
                    continue
                await self._seek_to_next()
                self._thread.set_most_records(min(self.batch_size, self.window.room))
                records, _partitions = await self._wait_next_records(FETCH_SECONDS)
                if self.should_stop or self.window.failure is not None:
                    return
                self._thread.set_fetch_wait(self._wait_ms(is_idle=not records))
                if records:
                    await self._hand_out(records)
        except self.consumer_stopped_errors:
            if not self.should_stop:
                raise

    async def _wait_for_room(self) -> bool:
        return await self.window.wait_for_room(self.batch_size, GATHER_SECONDS) or await self.window.wait_for_room(
            1, FETCH_SECONDS
        )

    async def _seek_to_next(self) -> None:
        if self._must_seek:
            self._must_seek = False
            spans = {tp: self.window.span(tp) for tp in self.window.marks()}
            await self._thread.seek_all({tp: span[1] for tp, span in spans.items() if span is not None})

    def _wait_ms(self, *, is_idle: bool) -> int:
        wait_ms = self.fetch_max_wait_ms
        return max(wait_ms, min(IDLE_WAIT_FACTOR * wait_ms, MAX_IDLE_WAIT_MS)) if is_idle else wait_ms

    async def _hand_out(self, records: Mapping[Any, Sequence[Any]]) -> None:
        taken: list[tuple[Any, Ticket]] = []
        for tp, messages in records.items():
            if not self.flow_active or not self._follows(tp, messages):
                self._must_seek = True
                continue
            for message in messages:
                ticket = self.window.take(tp, message.offset)
                if ticket is not None:
                    taken.append((message, ticket))
        try:
            if taken:
                self.take(taken)
        except Exception as error:
            self.window.fail(error)

    def _follows(self, tp: Any, messages: Sequence[Any]) -> bool:  # noqa: ANN401
        """Whether these messages follow the last ones that were taken, so that none between is left out."""
        span = self.window.span(tp)
        if span is None:
            return False
        start, expected = span
        first = messages[0].offset
        if first < start:
            LOG.warning("%s begins anew, at offset %d", tp, first)
            self.window.restart(tp, first)
        elif first > expected and self._sought.get(tp) != expected:
            self._sought[tp] = expected
            return False
        return True


def _error_of(done: "asyncio.Future[Any]") -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()


def _note_commit(done: "asyncio.Future[Any]") -> None:
    error = _error_of(done)
    if error is not None:
        LOG.debug("a commit failed and is made again: %r", error)


def consumer_class(
    window: Window, take: TakeRecords, forget: Callable[[], None], *, fetch_max_wait_ms: int, batch_size: int
) -> type[WindowConsumer]:
    """The consumer of an app, for ``app.transport.Consumer``; Faust makes it without arguments of ours.

    Args:
        window: what is in hand.
        take: takes records in hand.
        forget: is called when partitions come or go: what is not settled by then is read again.
        fetch_max_wait_ms: longest that a broker holds a fetch that finds nothing.
        batch_size: most records of a fetch.
    """
    options = {
        "window": window,
        "take": staticmethod(take),
        "forget": staticmethod(forget),
        "fetch_max_wait_ms": fetch_max_wait_ms,
        "batch_size": batch_size,
    }
    return type("Consumer", (WindowConsumer,), options)
