"""The bytes of images for verifiers, read once for all rollouts of a group and those after it."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from tristream.runtime.retry import retry
from tristream.runtime.store import BlobStore, StoreUnavailableError
from tristream.wire.events import Image

KEPT_BYTES = 64 * 2**20
NUM_LOCKS = 16
"""Images that are read at once."""


class ImageReader:
    """Reads images, from the event or from the run's store; any thread may use it.

    Args:
        open_run_store: opens the store when it is needed first.
        stop: ends the waiting for a store that is away.
        kept_bytes: so much of what was read last is kept.
    """

    def __init__(
        self, open_run_store: Callable[[], BlobStore], *, stop: threading.Event, kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._open_store = open_run_store
        self._stop = stop
        self._kept_bytes = kept_bytes
        self._reading = [threading.Lock() for _ in range(NUM_LOCKS)]
        self._lock = threading.Lock()
        self._store: BlobStore | None = None
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._num_bytes = 0
        self.num_reads = 0
        """Times that the store was asked."""
        self.waiting_for = ""
        """Why the store is waited for; empty while it is not."""

    def read(self, image: Image) -> bytes:
        """The encoded image; waits while the store is away.

        Raises:
            BlobError: it is not in the store, or not what it should be.
            StoppedError: told to stop while the store was away.
        """
        if image.data:
            return image.data
        with self._reading[hash(image.sha256) % NUM_LOCKS]:  # the rollouts of a group ask for the same one
            with self._lock:
                kept = self._kept.get(image.sha256)
                if kept is not None:
                    self._kept.move_to_end(image.sha256)
                    return kept
            data = retry(lambda: self._ask(image), errors=(StoreUnavailableError,), say=self._say, stop=self._stop)
            self._say("")
            self._keep(image.sha256, data)
            return data

    def _ask(self, image: Image) -> bytes:
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
            self.num_reads += 1
        return self._store.read_image(image)

    def _keep(self, sha256: str, data: bytes) -> None:
        with self._lock:
            self._kept[sha256] = data
            self._num_bytes += len(data)
            while self._num_bytes > self._kept_bytes:
                _, gone = self._kept.popitem(last=False)
                self._num_bytes -= len(gone)

    def _say(self, problem: str) -> None:
        self.waiting_for = problem
