"""The clients of kafka-python as the bus needs them, and the topics of a run on a broker."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from kafka.admin import KafkaAdminClient
from kafka.errors import (
    BrokerNotAvailableError,
    KafkaError,
    RetriableError,
    TopicAlreadyExistsError,
    UnknownBrokerIdError,
    UnknownTopicOrPartitionError,
)

from tristream.config.bus import BusSection
from tristream.runtime.bus.patience import Patience
from tristream.runtime.bus.protocol import BusError
from tristream.runtime.errors import UserError
from tristream.wire.topics import MAX_RECORD_BYTES, Topic

ResultT = TypeVar("ResultT")

LOG = logging.getLogger("tristream.bus")

RECONNECT_MAX_MS = 1000
"""Longest pause between two attempts to reach a broker that is away."""
COMPACTED_SEGMENT_MS = 600_000
"""Age at which a segment of a compacted topic is closed: the open one is never compacted, and every reader reads it."""
RETRY_SECONDS = 0.5
NUM_PARTITIONS = 4
"""Where the run file names no number."""
PASSING = (RetriableError, UnknownBrokerIdError, BrokerNotAvailableError)
"""Errors of a broker that is away or busy."""


def connect(kind: Callable[..., Any], settings: BusSection, patience: Patience, **options: Any) -> Any:  # noqa: ANN401
    """A client of a broker that answers, however long that takes.

    Raises:
        UserError: no broker is given, or its address is none.
        StoppedError: told to stop while no broker answered.
    """
    where = "[bus] bootstrap_servers"
    if not settings.bootstrap_servers:
        raise UserError(
            "no broker is given", where=where, remedy="give HOST:PORT, or let `tristream up` start a broker"
        )
    try:
        return patience.get(
            lambda: kind(
                bootstrap_servers=settings.bootstrap_servers.split(","),
                reconnect_backoff_max_ms=RECONNECT_MAX_MS,
                bootstrap_timeout_ms=None,
                **options,
            )
        )
    except ValueError as error:
        raise UserError(f"'{settings.bootstrap_servers}': {error}", where=where, remedy="give HOST:PORT") from error


def insist(patience: Patience, call: Callable[[], ResultT]) -> ResultT:
    """The answer of a broker to a call, made again for as long as the broker is away.

    Raises:
        BusError: the broker refuses it.
        StoppedError: told to stop while it did not answer.
    """
    return patience.get(lambda: _repeat(call))


def raise_unless_passing(error: KafkaError) -> None:
    """Raise BusError for an error that does not pass by itself."""
    if not isinstance(error, PASSING):
        raise BusError(f"the broker refuses: {error or type(error).__name__}") from error
    LOG.debug("the broker does not answer: %r", error)


def _repeat(call: Callable[[], ResultT]) -> ResultT:
    while True:
        try:
            return call()
        except KafkaError as error:
            raise_unless_passing(error)
        time.sleep(RETRY_SECONDS)


class TopicAdmin:
    """Looks after a run's topics on a broker."""

    def __init__(self, settings: BusSection, patience: Patience, client_id: str) -> None:
        self._settings = settings
        self._patience = patience
        self._client_id = client_id

    def make_topics(self, topics: dict[str, Topic[Any]]) -> None:
        """Make those topics, by full name, that do not exist, and wait until the broker shows them.

        Raises:
            UserError: some are missing, and the run file says that none are made.
        """
        admin = self._connect()
        try:
            existing = set(insist(self._patience, admin.list_topics))
            missing = {name: topic for name, topic in topics.items() if name not in existing}
            if missing and not self._settings.create_topics:
                raise UserError(
                    f"the broker has no {', '.join(sorted(missing))}",
                    where="[bus] create_topics",
                    remedy="make these topics, or let create_topics be true",
                )
            for name, topic in missing.items():
                request = {name: topic_request(topic, self._settings)}
                insist(self._patience, partial(_create, admin, request))
            insist(self._patience, lambda: _require_topics(admin, set(missing)))
        finally:
            close_in_background(admin)

    def log_id(self, names: Sequence[str]) -> str:
        """Checksum of the identities that the broker gave to topics; empty if it gives them none."""
        admin = self._connect()
        try:
            found = insist(self._patience, lambda: admin.describe_topics(list(names)))
        finally:
            close_in_background(admin)
        ids = {topic["name"]: topic.get("topic_id") for topic in found}
        if not all(ids.get(name) for name in names):
            return ""
        return hashlib.sha256(repr([str(ids[name]) for name in names]).encode()).hexdigest()[:32]

    def _connect(self) -> Any:  # noqa: ANN401
        return connect(KafkaAdminClient, self._settings, self._patience, client_id=self._client_id)


def topic_request(topic: Topic[Any], settings: BusSection) -> dict[str, Any]:
    """How a topic is made."""
    hours = None if topic.kept_for_ever else settings.retention_hours
    configs = {
        "max.message.bytes": str(MAX_RECORD_BYTES),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": str(settings.min_insync_replicas),
        "retention.bytes": "-1",
        "retention.ms": "-1" if hours is None else str(round(hours * 3_600_000)),
    }
    if topic.compacted:
        configs["cleanup.policy"] = "compact"
        configs["segment.ms"] = str(COMPACTED_SEGMENT_MS)
        configs["segment.bytes"] = str(2 * MAX_RECORD_BYTES)
        configs["min.compaction.lag.ms"] = str(topic.compaction_lag_seconds * 1000)
    return {
        "num_partitions": 1 if topic.single_partition else settings.num_partitions or NUM_PARTITIONS,
        "replication_factor": settings.replication_factor,
        "configs": configs,
    }


def close_in_background(client: Any) -> None:  # noqa: ANN401 - untyped library
    """Close a client that may wait for a broker that is away."""
    threading.Thread(target=client.close, name="bus-close", daemon=True).start()


def _require_topics(admin: Any, names: set[str]) -> None:  # noqa: ANN401
    """Raise an error that passes unless the broker shows the topics."""
    if not names <= set(admin.list_topics()):
        raise UnknownTopicOrPartitionError("a topic that was just made is not shown yet")


def _create(admin: Any, request: dict[str, Any]) -> None:  # noqa: ANN401
    try:
        admin.create_topics(request)
    except TopicAlreadyExistsError:
        LOG.debug("topic %s exists", next(iter(request)))
