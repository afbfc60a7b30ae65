"""The engine without threads: requests go in, one step at a time, and completions come out.

submit -> waiting --(slots free: read once a prompt)--> rows --(one token a step)--> completions
"""

import time
from collections import deque
from collections.abc import Sequence
from itertools import islice

import torch

from tristream.producer.engines.protocol import EngineCounts, WeightsFile
from tristream.producer.engines.transformers.decode_batch import DecodeBatch, Row
from tristream.producer.engines.transformers.decoding_policy import DecodingPolicy, Prefilled
from tristream.producer.engines.transformers.prefilling import PREFILL_PROMPTS, PrefilledPrompts

GATHER_SECONDS = 0.02
"""Rows wait for others for so long after the newest of them: prompts are read faster together, and a step of few rows
costs nearly as much as one of many."""
MAX_GATHER_SECONDS = 0.1
"""No row waits longer for others."""
NAP_SECONDS = 0.002


class DecodeCore:
    """Decodes all running rows together; used by one thread."""

    def __init__(self, policy: DecodingPolicy, *, max_running: int) -> None:
        self.version: int | None = None
        """Version of the weights; None before any were loaded."""
        self.counts = EngineCounts()
        self._policy = policy
        self._max_running = max_running
        self._waiting: deque[Row] = deque()
        self._first_came = self._last_came = 0.0
        """When the rows that wait began to come, and when the newest of them came, by the monotonic clock."""
        self._prefilled = PrefilledPrompts(policy)
        self._batch = DecodeBatch(policy)

    @property
    def num_running(self) -> int:
        """Rows begun and not finished."""
        return len(self._batch.rows)

    @property
    def num_waiting(self) -> int:
        """Rows not begun."""
        return len(self._waiting)

    @property
    def running(self) -> Sequence[Row]:
        """Rows begun and not finished."""
        return self._batch.rows

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._batch.rows)

    def submit(self, row: Row) -> None:
        """Queue a row."""
        self._last_came = time.monotonic()
        if not self._waiting:
            self._first_came = self._last_came
        self._waiting.append(row)

    def update_weights(self, version: int, weights: WeightsFile) -> None:
        """Go on with other weights: rows keep their tokens, and what was computed of them.

        Raises:
            ValueError: they are not those of this model; nothing has changed.
        """
        self._policy.load_weights(weights.path)
        self._prefilled.clear()
        self.version = version
        for row in self._batch.rows:
            row.take_version(version)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Let rows join, and sample one token of each; return those that finished."""
        joining = [] if self._is_gathering() else self._joining()
        if not joining and not self._batch.rows:
            time.sleep(NAP_SECONDS)
            return []
        over = self._batch.step(joining)
        finished = [row for row in over if not row.is_cancelled]
        self._count(finished, num_sampled=len(self._batch.rows) + len(over))
        return finished

    def reset(self) -> list[Row]:
        """Forget all rows, and return them; the weights stay."""
        lost = [*self._waiting, *self._batch.rows]
        self._waiting.clear()
        self._prefilled.clear()
        self._batch = DecodeBatch(self._policy)
        return lost

    def _is_gathering(self) -> bool:
        """Whether there is room for more rows than wait, and more are likely to come."""
        if not self._waiting or len(self._waiting) >= self._max_running - self.num_running:
            return False
        now = time.monotonic()
        return now < min(self._last_came + GATHER_SECONDS, self._first_came + MAX_GATHER_SECONDS)

    def _joining(self) -> list[tuple[Row, Prefilled]]:
        """Waiting rows for the free slots, their prompts read."""
        rows = self._take_waiting(self._max_running - self.num_running)
        if any(row.prompt not in self._prefilled for row in rows):
            upcoming = dict.fromkeys(row.prompt for row in self._waiting if row.prompt not in self._prefilled)
            self._prefilled.read([*(row.prompt for row in rows), *islice(upcoming, PREFILL_PROMPTS)])
        joining = []
        for row in rows:
            prefilled, row.is_cached = self._prefilled.take(row.prompt)
            joining.append((row, prefilled))
        return joining

    def _take_waiting(self, num_rows: int) -> list[Row]:
        rows: list[Row] = []
        while self._waiting and len(rows) < num_rows:
            row = self._waiting.popleft()
            if not row.is_cancelled:
                row.begin(self.version)
                rows.append(row)
        return rows

    def _count(self, finished: Sequence[Row], *, num_sampled: int) -> None:
        self.counts.sampled_tokens += num_sampled
        for row in finished:
            self.counts.prompt_tokens += len(row.prompt.tokens)
            self.counts.cached_prompt_tokens += len(row.prompt.tokens) * row.is_cached
