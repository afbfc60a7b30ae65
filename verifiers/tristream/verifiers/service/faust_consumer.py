"""Faust's Kafka consumer with its losses closed (faust-streaming 0.15.3).

Three behaviours of the stock consumer are changed:

- a commit never passes a message that is still being handled (faust-streaming/faust#606);
- a message that the stream skips, because the partitions are moving or the worker stops, is not
  acknowledged: the stock consumer acknowledges it unhandled, and it would be lost;
- after ``refuse_acks`` nothing is acknowledged any more. Faust acknowledges what a failing handler
  was given, so the handler calls this before it lets an exception out.

It also fetches with a short wait: the stock wait of 1.5 s is not interrupted by every broker.
"""

from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer

from tristream.runtime.hooks import reach


class FastFetchThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Makes the consumer with the fetch wait of the app."""

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:  # noqa: ANN401 - untyped library
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.consumer.fetch_max_wait_ms
        return consumer


class SafeConsumer(Consumer):  # type: ignore[misc]
    """Commits only what was handled."""

    fetch_max_wait_ms = 10
    """Longest that the broker holds a fetch back when there is nothing to read."""
    _refuses_acks = False

    def refuse_acks(self) -> None:
        """Acknowledge nothing any more, so that everything in hand is read again after a restart."""
        self._refuses_acks = True

    def ack(self, message: Any) -> bool:  # noqa: ANN401 - untyped library
        """Count a message as handled if it was handed out and acknowledgements are taken."""
        if self._refuses_acks or not message.tracked:
            return False
        return bool(super().ack(message))

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        reach("commit")
        return bool(await super()._commit(offsets))

    def _new_consumer_thread(self) -> FastFetchThread:
        return FastFetchThread(self, loop=self.loop, beacon=self.beacon)

    def _new_offset(self, tp: Any) -> int | None:  # noqa: ANN401 - untyped library
        """The offset to commit: below the oldest message in hand."""
        acked = self._acked[tp]
        in_hand = [message.offset for message in self._unacked_messages if message.tp == tp and not message.acked]
        later = [offset for offset in acked if in_hand and offset > min(in_hand)]
        if not later:
            return super()._new_offset(tp) if acked else None
        acked[:] = [offset for offset in acked if offset < min(in_hand)]
        try:
            return super()._new_offset(tp) if acked else None
        finally:
            self._acked[tp].extend(later)
            self._acked[tp].sort()
