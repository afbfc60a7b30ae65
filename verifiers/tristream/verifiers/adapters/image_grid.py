"""The size at which the model saw an image, for answers in pixels of the resized image.

Qwen2.5-VL answers in pixels of its own resized input, and V-Triune's ``det_verifier_normalized`` asks
for such boxes to be rescaled by that size. It follows from the image and the model's preprocessor
configuration alone, so no rollout has to carry it. Only the first image counts, as in V-Triune.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from tristream.policy.image_header import check_image
from tristream.policy.resizing import ResizeRule, read_resize_rule
from tristream.runtime.retry import retry
from tristream.runtime.store import BlobStore, StoreUnavailableError
from tristream.verifiers.pool.truths import parse_parameters
from tristream.wire.events import Image, Rollout

KEY = "det_verifier_normalized"
MAX_PIXELS = 2**40
"""No pixel is decoded here, so the size alone is no reason to refuse an image."""
MAX_SIZES = 65_536
"""Images whose sizes are kept; those that were asked for least recently go."""

Size = tuple[int, int]
"""(height, width) in pixels."""


class ImageSizes:
    """Adds ``image_grid_thw`` to the parameters that need it; any thread may use it.

    Each image is read once: all rollouts of a group have the same one.
    """

    def __init__(
        self,
        model_path: Path,
        open_run_store: Callable[[], BlobStore],
        *,
        stop: threading.Event | None = None,
    ) -> None:
        """Take the model folder, how the store is opened, and what ends the waiting for it."""
        self._model_path = model_path
        self._open_store = open_run_store
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self._store: BlobStore | None = None
        self._rule: ResizeRule | None = None
        self._sizes: OrderedDict[str, Size] = OrderedDict()
        self.waiting_for = ""
        """Why the store is waited for; empty while it is not."""

    def concern(self, params_json: str) -> bool:
        """Whether parameters may need the size of an image, so that ``complete`` may wait for the store."""
        return KEY in params_json

    def complete(self, rollout: Rollout, params_json: str) -> str:
        """The parameters, with ``image_grid_thw`` in pixels if boxes have to be rescaled.

        Raises:
            Unscorable: the parameters are no JSON object.
            ValueError: the rollout has no readable image, or the model folder has no resize rule.
            BlobError: the image is not in the store.
            StoppedError: told to stop while the store was away.
        """
        if not self.concern(params_json):
            return params_json
        params = parse_parameters(params_json)
        if not params.get(KEY) or params.get("image_grid_thw"):
            return params_json
        if not rollout.images:
            raise ValueError(f"{KEY} is set but the rollout has no image")
        if self._rule is None:
            self._rule = read_resize_rule(self._model_path)
        height, width = self._size_of(rollout.images[0])
        return json.dumps({**params, "image_grid_thw": [[1, *self._rule.resized(height, width)]]})

    def _size_of(self, image: Image) -> Size:
        with self._lock:
            known = self._sizes.get(image.sha256)
            if known is not None:
                self._sizes.move_to_end(image.sha256)
                return known
        width, height = self._read_size(image)
        with self._lock:
            self._sizes[image.sha256] = (height, width)
            if len(self._sizes) > MAX_SIZES:
                self._sizes.popitem(last=False)
        return height, width

    def _read_size(self, image: Image) -> tuple[int, int]:
        """(width, height) of an image; waits while the store is away."""
        with self._lock:
            if self._store is None:
                self._store = self._open_store()
            store = self._store
        data = retry(lambda: store.read_image(image), errors=(StoreUnavailableError,), say=self._say, stop=self._stop)
        self._say("")
        return check_image(data, MAX_PIXELS)

    def _say(self, problem: str) -> None:
        self.waiting_for = problem
