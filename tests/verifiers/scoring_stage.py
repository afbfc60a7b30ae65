"""A scorer on the bus in memory, for tests."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from builders import RUN

from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import Record
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.service.scoring import RolloutScorer
from tristream.verifiers.service.terms import Serving, Shadow
from tristream.verifiers.service.window import Lane, Ticket, Window
from tristream.wire.events import DeadLetter, Reward, Rollout
from tristream.wire.topics import DEAD_LETTERS, REWARDS, ROLLOUTS, record_headers

OUR_CONTRACT = {"contract": b"2"}
SECOND_NS = 1_000_000_000


def raw(
    value: bytes, headers: Mapping[str, bytes], *, key: str = "k", offset: int = 0, timestamp_ns: int = 0
) -> Record[bytes]:
    return Record(
        topic=ROLLOUTS.name,
        partition=2,
        offset=offset,
        key=key,
        event=value,
        headers=headers,
        timestamp_ns=timestamp_ns,
    )


def to_record(rollout: Rollout, *, offset: int = 0, timestamp_ns: int = 0) -> Record[bytes]:
    headers = {name: value.encode() for name, value in record_headers(ROLLOUTS, rollout).items()}
    value = ROLLOUTS.codec.encode(rollout)
    return raw(value, headers, key=ROLLOUTS.key(rollout), offset=offset, timestamp_ns=timestamp_ns)


def to_foreign_record(rollout: Rollout) -> Record[bytes]:
    record = to_record(rollout)
    return raw(record.event, {"verifiers": b"math"}, key=record.key)


@dataclass
class ScoringStage:
    """A window on one partition, and what its scorer publishes."""

    pool: Pool
    bus: MemoryBus = field(default_factory=lambda: MemoryBus(RUN, part="verifier"))
    shadow: Shadow | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[Lane, int] = field(default_factory=lambda: {Lane.PURE: 1000, Lane.ASYNC: 1000})

    def __post_init__(self) -> None:
        self.window = Window(self.sizes)
        self.window.assign({2: 0})
        self.serving = Serving(facts=self.pool.facts, shadow=self.shadow)
        self.scorer = RolloutScorer(self.serving, self.pool, self.bus, self.window, **self.options)

    def take(self, *records: Record[bytes]) -> None:
        """Hand out records, at the offsets that come next."""
        taken: list[tuple[Record[bytes], Ticket]] = []
        for record in records:
            span = self.window.span(2)
            assert span is not None
            ticket = self.window.take(2, span[1])
            assert ticket is not None
            taken.append((replace(record, offset=span[1]), ticket))
        self.scorer.take(taken)

    def take_rollouts(self, *rollouts: Rollout, timestamp_ns: int = 0) -> None:
        self.take(*(to_record(rollout, timestamp_ns=timestamp_ns) for rollout in rollouts))

    def finish(self, seconds: float = 60.0) -> "ScoringStage":
        """Wait until nothing is in hand."""
        self.wait_until(lambda: self.mark == self.end, seconds)
        assert self.window.num_in_works == 0
        return self

    def wait_until(self, is_reached: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not is_reached():
            if self.window.failure is not None:
                raise self.window.failure
            assert time.monotonic() < deadline, f"{self.mark} of {self.end} are settled"
            time.sleep(0.005)

    @property
    def mark(self) -> int:
        """Every record below is settled."""
        return self.window.marks()[2]

    @property
    def end(self) -> int:
        span = self.window.span(2)
        assert span is not None
        return span[1]

    @property
    def rewards(self) -> list[Reward]:
        return [record.event for record in self.bus.reader([REWARDS]).read_to_end()]

    @property
    def by_number(self) -> dict[int, Reward]:
        return {reward.group.number: reward for reward in self.rewards}

    @property
    def letters(self) -> list[DeadLetter]:
        return [record.event for record in self.bus.reader([DEAD_LETTERS]).read_to_end()]
