"""Answers of the database for the page: lanes that do not wait for each other, each answer kept for a short while.

A lane has one client and asks one query at a time. An answer lives for a quarter of a second, or for ten times what it
cost if that is longer. So many open tabs ask as much as one, and the page takes at most a small part of the CPU
from training, however long the run.
"""

import json
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from tristream.monitoring.store.client import Client

MIN_LIFETIME_SECONDS = 0.25
LIFETIME_PER_COST = 10.0


class Lane(IntEnum):
    """What waits only for its own kind: a long search of rollouts does not hold up the head of the page."""

    HEAD = 0
    CURVES = 1
    ROLLOUTS = 2
    IMAGES = 3


class AnswerCache:
    """JSON answers by key; any thread may ask. Lanes beyond the number of clients share the last one."""

    def __init__(self, *clients: Client) -> None:
        queues = [_Queue(client) for client in clients]
        self._queues = queues
        self._by_lane = {lane: queues[min(lane, len(queues) - 1)] for lane in Lane}

    def get_json(self, key: str, compute: Callable[[Client], Any], lane: Lane = Lane.HEAD) -> bytes:
        """The answer of ``compute`` as JSON, computed only if the one that is kept has expired."""
        return self._by_lane[lane].get_json(key, compute)

    def ask(self, compute: Callable[[Client], Any], lane: Lane = Lane.HEAD) -> Any:  # noqa: ANN401 - whatever is asked for
        """An answer that is not kept."""
        return self._by_lane[lane].ask(compute)

    def close(self) -> None:
        """Wait for the queries in progress and close the clients."""
        for queue in self._queues:
            queue.close()


class _Queue:
    """One client and the answers that it gave."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, bytes]] = {}

    def get_json(self, key: str, compute: Callable[[Client], Any]) -> bytes:
        kept = self._kept.get(key)
        if kept and time.monotonic() < kept[0]:
            return kept[1]
        with self._lock:
            started = time.monotonic()
            expires, body = self._kept.get(key, (0.0, b""))
            if started < expires:
                return body
            body = to_json(compute(self._client))
            now = time.monotonic()
            alive = {other: kept for other, kept in self._kept.items() if kept[0] > now}
            alive[key] = (now + max(MIN_LIFETIME_SECONDS, LIFETIME_PER_COST * (now - started)), body)
            self._kept = alive
            return body

    def ask(self, compute: Callable[[Client], Any]) -> Any:  # noqa: ANN401 - whatever is asked for
        with self._lock:
            return compute(self._client)

    def close(self) -> None:
        with self._lock:
            self._client.close()


def to_json(value: object) -> bytes:
    """Strict JSON."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()
