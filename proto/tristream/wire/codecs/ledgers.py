"""Codec of the ledger."""

from collections.abc import Iterable

from tristream.ledgers.v1 import ledger_pb2
from tristream.wire import events
from tristream.wire.codecs.base import require


def ledger_to_message(ledger: events.Ledger) -> ledger_pb2.Ledger:
    """Ledger as protobuf."""
    return ledger_pb2.Ledger(
        step=ledger.step,
        settled=_intervals_to_messages(ledger.settled),
        num_dropped=ledger.num_dropped,
        dropped_checksum=ledger.dropped_checksum,
        epoch=ledger.epoch,
        position=position_to_message(ledger.position),
    )


def ledger_from_message(message: ledger_pb2.Ledger) -> events.Ledger:
    """Ledger from protobuf."""
    for name in ("step", "num_dropped", "epoch"):
        value = getattr(message, name)
        require(value >= 0, f"ledger has {name} {value}")
    return events.Ledger(
        step=message.step,
        settled=_intervals_from_messages(message.settled),
        num_dropped=message.num_dropped,
        dropped_checksum=message.dropped_checksum,
        epoch=message.epoch,
        position=position_from_message(message.position),
    )


def position_to_message(position: events.LogPosition) -> ledger_pb2.LogPosition:
    """Position on the log as protobuf."""
    return ledger_pb2.LogPosition(
        log_id=position.log_id,
        offsets=[
            ledger_pb2.PartitionOffset(topic=offset.topic, partition=offset.partition, offset=offset.offset)
            for offset in position.offsets
        ],
        evaluated=[
            ledger_pb2.EvaluatedRound(
                eval_step=evaluated.eval_step,
                eval_attempt=evaluated.eval_attempt,
                numbers=_intervals_to_messages(evaluated.numbers),
            )
            for evaluated in position.evaluated
        ],
    )


def position_from_message(message: ledger_pb2.LogPosition) -> events.LogPosition:
    """Position on the log from protobuf."""
    return events.LogPosition(
        log_id=message.log_id,
        offsets=tuple(map(_offset_from_message, message.offsets)),
        evaluated=tuple(
            events.EvaluatedRound(
                eval_step=evaluated.eval_step,
                eval_attempt=evaluated.eval_attempt,
                numbers=_intervals_from_messages(evaluated.numbers),
            )
            for evaluated in message.evaluated
        ),
    )


def _offset_from_message(message: ledger_pb2.PartitionOffset) -> events.PartitionOffset:
    require(bool(message.topic), "partition offset has no topic")
    require(message.offset >= 0, f"partition offset of {message.topic} is {message.offset}")
    return events.PartitionOffset(topic=message.topic, partition=message.partition, offset=message.offset)


def _intervals_to_messages(intervals: Iterable[events.Interval]) -> list[ledger_pb2.Interval]:
    return [ledger_pb2.Interval(start=interval.start, end=interval.end) for interval in intervals]


def _intervals_from_messages(messages: Iterable[ledger_pb2.Interval]) -> tuple[events.Interval, ...]:
    intervals = tuple(events.Interval(start=message.start, end=message.end) for message in messages)
    end = -1
    for interval in intervals:
        require(end < interval.start < interval.end, f"interval {interval.start} to {interval.end} is not in order")
        end = interval.end
    return intervals
