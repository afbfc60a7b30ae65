"""Taking the batches of Kafka apart into records of ours.

kafka-python raises for a whole batch where one record is not as it should be, such as a header whose name is no UTF-8,
and then never goes on. Here that record comes as its bytes, without a key and headers, so that it becomes a dead
letter and the rest is read.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError

from tristream.runtime.bus.protocol import Record

NO_HEADERS: Mapping[str, bytes] = {}


def use_own_batches(consumer: Any, topic_names: Mapping[str, str]) -> None:  # noqa: ANN401 - untyped library
    """Let a KafkaConsumer give records of ours.

    Args:
        consumer: the consumer, before its first poll.
        topic_names: names without prefix and run, by full name.
    """

    class OwnPartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
        """Records of one answer to a fetch."""

        def _unpack_records(self, tp: Any, records: Any, *_deserializers: object) -> Iterator[Record[bytes]]:  # noqa: ANN401
            name = topic_names[tp.topic]
            batch = last_batch = records.next_batch()
            while batch is not None:
                last_batch = batch
                if self.check_crcs and not batch.validate_crc():
                    raise CorruptRecordError(f"{tp} has a damaged batch at offset {batch.base_offset}")
                self.leader_epoch = batch.leader_epoch
                if not batch.is_control_batch:
                    for record in unpack_batch(batch, name, tp.partition):
                        self.next_fetch_offset = record.offset + 1
                        self.records_read += 1
                        yield record
                self.bytes_read += batch.size_in_bytes
                self.next_fetch_offset = batch.next_offset
                batch = records.next_batch()
            if last_batch is not None:
                self.next_fetch_offset = last_batch.next_offset
            self.drain()

    consumer._fetcher.PartitionRecords = OwnPartitionRecords


def unpack_batch(batch: Any, topic: str, partition: int) -> Iterator[Record[bytes]]:  # noqa: ANN401
    """The records of a batch (format 2), in order."""
    batch._maybe_uncompress()
    data, position = bytes(batch._buffer), batch._pos
    log_time_ms = batch.max_timestamp if batch.timestamp_type else None
    for index in range(batch.records_count):
        length, start = _read_varint(data, position)
        position = start + length
        if length < 0 or position > len(data):
            raise CorruptRecordError(f"{topic}-{partition} has a damaged batch at offset {batch.base_offset}")
        try:
            time_delta, offset_delta, key, value, headers = _unpack_record(data, start, position)
        except (IndexError, ValueError):
            time_delta, offset_delta, key, value, headers = 0, index, "", data[start:position], NO_HEADERS
        yield Record(
            topic=topic,
            partition=partition,
            offset=batch.base_offset + offset_delta,
            key=key,
            event=value,
            headers=headers,
            timestamp_ns=(batch.first_timestamp + time_delta if log_time_ms is None else log_time_ms) * 1_000_000,
        )


def _unpack_record(data: bytes, position: int, end: int) -> tuple[int, int, str, bytes, Mapping[str, bytes]]:
    """Time and offset since the batch's first, key, value and headers of a record.

    Raises:
        ValueError: it is not as it should be.
        IndexError: it is not as it should be.
    """
    time_delta, position = _read_varint(data, position + 1)
    offset_delta, position = _read_varint(data, position)
    key, position = _read_bytes(data, position)
    value, position = _read_bytes(data, position)
    num_headers, position = _read_varint(data, position)
    headers = {}
    for _ in range(num_headers):
        name, position = _read_bytes(data, position)
        header, position = _read_bytes(data, position)
        headers[name.decode()] = header
    if position != end:
        raise ValueError("a record does not end where it says")
    return time_delta, offset_delta, key.decode(errors="replace"), value, headers


def _read_bytes(data: bytes, position: int) -> tuple[bytes, int]:
    """Bytes with their length before them; null is as nothing."""
    byte = data[position]
    if byte < 0x80:
        length, position = (byte >> 1) ^ -(byte & 1), position + 1
    else:
        length, position = _read_varint(data, position)
    if length <= 0:
        return b"", position
    end = position + length
    return data[position:end], end


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A zigzag number of variable length."""
    byte = data[position]
    position += 1
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), position
    number, shift = byte & 0x7F, 7
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), position
        shift += 7
