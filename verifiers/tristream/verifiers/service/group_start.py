"""Where a consumer group begins that is to read a topic from a time on."""

import logging
from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata, TopicPartition

from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.kafka_clients import close_in_background, connect
from tristream.wire.topics import Topic

LOG = logging.getLogger("tristream.verifier")

LOOKUP_MS = 10_000


def begin_group_at(bus: KafkaBus, topic: Topic[Any], group: str, timestamp_ns: int) -> bool:
    """Let a group begin a topic with the records that the broker took at a time or later, unless it has begun.

    Whoever reads must still leave out earlier records by their timestamps: this saves reading them, and a broker
    that does not look up times, or does not take the commit, is read from the start.

    Returns:
        Whether the group begins at that time, or has begun before.
    """
    name = bus.full_name(topic)
    partitions = [TopicPartition(name, number) for number in bus.partitions_of(topic)]
    consumer = connect(KafkaConsumer, bus.settings, bus.patience, group_id=group, enable_auto_commit=False)
    try:
        if any(consumer.committed(partition, timeout_ms=LOOKUP_MS) is not None for partition in partitions):
            return True
        bus.publish_barriers(
            topic, bus.partitions_of(topic), "begin"
        )  # so that each has a record of that time or later
        starts = _look_up(consumer, partitions, timestamp_ns // 1_000_000)
        if not starts:
            return False
        commits = {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in starts.items()}
        consumer.commit(commits, timeout_ms=LOOKUP_MS)
    except KafkaError as error:
        LOG.info("%s is read from its start: %r", name, error)
        return False
    finally:
        close_in_background(consumer)
    return True


def _look_up(consumer: Any, partitions: list[TopicPartition], time_ms: int) -> Mapping[TopicPartition, int]:  # noqa: ANN401
    """Offsets of the first records at or after a time; none of a partition that has no such record."""
    found = consumer.offsets_for_times(dict.fromkeys(partitions, time_ms), timeout_ms=LOOKUP_MS)
    return {partition: place.offset for partition, place in found.items() if place is not None and place.offset > 0}
