"""Answers of the database for the page: one query at a time, each answer kept for a short while.

An answer lives for one second, or for ten times what it cost if that is longer. So many open tabs ask
as much as one, and the page takes at most a small part of the CPU from training, however long the run.
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from tristream.monitoring.store.client import Client

MIN_LIFETIME_SECONDS = 1.0
LIFETIME_PER_COST = 10.0


class AnswerCache:
    """JSON answers by key; any thread may ask."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, bytes]] = {}

    def get_json(self, key: str, compute: Callable[[Client], Any]) -> bytes:
        """The answer of ``compute`` as JSON, computed only if the one that is kept has expired."""
        with self._lock:
            started = time.monotonic()
            expires, body = self._kept.get(key, (0.0, b""))
            if started < expires:
                return body
            body = to_json(compute(self._client))
            now = time.monotonic()
            self._kept = {other: kept for other, kept in self._kept.items() if kept[0] > now}
            self._kept[key] = (now + max(MIN_LIFETIME_SECONDS, LIFETIME_PER_COST * (now - started)), body)
            return body

    def ask(self, compute: Callable[[Client], Any]) -> Any:  # noqa: ANN401 - whatever is asked for
        """An answer that is not kept."""
        with self._lock:
            return compute(self._client)

    def close(self) -> None:
        """Wait for the query in progress and close the client."""
        with self._lock:
            self._client.close()


def to_json(value: object) -> bytes:
    """Strict JSON."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode()
