"""The lease of a part of which a run has one: dispatcher, assembler, and the first rank of the learner.

    claim -> read the statuses to their end -> another one lives: UserError
                                            -> it is silent: wait for its silence
                                            -> claim the next epoch; first on the log -> fences in the part's topics

Nobody has to be told that it is over: what a superseded process still writes lies behind a fence of a newer epoch, and
is void. ``check`` says so to the process itself, so that it ends.
"""

import logging
import random
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from tristream.runtime.bus.protocol import Bus, Reader
from tristream.runtime.claims import Claims, claim_measures, claimed_epoch, is_of_part
from tristream.runtime.errors import StoppedError, UserError
from tristream.runtime.hooks import reach
from tristream.runtime.log_clock import LogClock
from tristream.runtime.status import PartReporter
from tristream.runtime.succession import Succession
from tristream.wire.events import PartState, PartStatus
from tristream.wire.topics import PARTS, Topic

LOG = logging.getLogger("tristream.lease")

SILENCE_BEATS = 4.0
"""A holder that was not heard for so many beats is taken to be gone."""
POLL_SECONDS = 0.05
CLOSE_SECONDS = 5.0
"""Longest wait for the thread that reads the statuses; a broker that is away may keep it longer."""
REOPEN_SECONDS = 1.0
"""Pause before the statuses are read anew after their reader failed."""


class SupersededError(UserError):
    """Another process of this part has taken over; nothing that this one writes counts."""

    def __init__(self, reporter: PartReporter, by: PartStatus) -> None:
        super().__init__(
            f"{by.instance} has taken over as {by.part} under epoch {by.epoch}, this is {reporter.instance} "
            f"under epoch {reporter.epoch}",
            where=f"run {by.run}",
            remedy=f"let {by.instance} work, or stop it and start this one again",
        )


class Lease:
    """The right of this process to be the one of its part, under an epoch; any thread may ask."""

    def __init__(
        self, bus: Bus, reporter: PartReporter, epoch: int, reader: Reader, clock: LogClock, silence_seconds: float
    ) -> None:
        self.epoch = epoch
        """Greater than that of every holder before."""
        self._bus = bus
        self._reporter = reporter
        self._clock = clock
        self._silence_seconds = silence_seconds
        self._heard_ns = time.time_ns()
        """When this process made the newest of its own statuses that came back."""
        self._has_listened = False
        """Whether ``check`` has waited for one already since the last came back."""
        self._newer: PartStatus | None = None
        self._succession = Succession()
        self._failure: UserError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, args=(reader,), name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def claim(
        cls,
        bus: Bus,
        reporter: PartReporter,
        topics: Sequence[Topic[Any]],
        *,
        above: int = 0,
        stop: threading.Event,
        silence_seconds: float | None = None,
    ) -> "Lease":
        """Become the one process of a part; the reporter publishes on this bus and beats from now on.

        Args:
            bus: its topics exist.
            reporter: whose part it is; its ``beat_seconds`` must be that of every process of the part.
            topics: what the part writes, and nobody else; what an earlier holder writes into them from now on is void.
            above: an epoch known from elsewhere, such as from a checkpoint, that must be surpassed.
            stop: ends the waiting.
            silence_seconds: how long a holder must be silent to be taken for gone; four beats if not given.

        Raises:
            UserError: another process of this part is at work.
            StoppedError: told to stop while waiting.
            BusError: the fences were not acknowledged.
        """
        reporter.connect_to(bus)
        reporter.report(PartState.STARTING, f"to know that no other {reporter.part} is at work")
        reporter.start_beating()
        clock = LogClock(reporter.beat_seconds)
        silence = SILENCE_BEATS * reporter.beat_seconds if silence_seconds is None else silence_seconds
        with ExitStack() as undo:
            undo.callback(reporter.report, PartState.DONE)
            undo.callback(reporter.stop_beating)
            reader = bus.reader([PARTS], is_patient=True)
            undo.callback(reader.close)
            epoch = _Claimant(reporter, reader, clock, silence, stop).claim(above)
            reach("lease.claimed")
            bus.take_over(topics, epoch)
            lease = cls(bus, reporter, epoch, reader, clock, silence)
            undo.pop_all()
        LOG.info("%s is the %s under epoch %d", reporter.instance, reporter.part, epoch)
        return lease

    @property
    def log_seconds(self) -> float:
        """Seconds for which the log has been flowing for this process.

        Counted by its own beats that came back: a process that was frozen, or whose broker was away, does not age.
        """
        return self._clock.seconds

    def check(self) -> None:
        """Call this before anything that only the one process of the part may do; it costs nothing.

        After a silence in which another process may have taken over, as when this one was frozen, it waits until the
        log was read up to a status that this process made after it: four beats at most, and once, since a broker may
        be away.

        Raises:
            SupersededError: another process has taken over.
            UserError: the statuses cannot be read for good.
        """
        if time.time_ns() - self._heard_ns >= self._silence_seconds * 1e9 and not self._has_listened:
            self._listen()
        if self._newer is not None:
            raise SupersededError(self._reporter, self._newer)
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Say that the part is free, and beat no more."""
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)
        self._reporter.stop_beating()
        self._reporter.report(PartState.DONE)

    def _listen(self) -> None:
        asked_ns, deadline = time.time_ns(), time.monotonic() + SILENCE_BEATS * self._reporter.beat_seconds
        while self._heard_ns < asked_ns and time.monotonic() < deadline:
            if self._newer is not None or self._failure is not None or self._stop.wait(POLL_SECONDS):
                return
        self._has_listened = True  # not before: other threads that ask meanwhile must listen too

    def _follow(self, reader: Reader) -> None:
        while True:
            try:
                self._read(reader)
            except UserError as error:
                self._failure = error
            except Exception as error:
                LOG.warning("the statuses cannot be read, and are read anew: %s", error)
            with suppress(Exception):
                reader.close()
            if self._failure is not None or (opened := self._reopen()) is None:
                return
            reader = opened

    def _read(self, reader: Reader) -> None:
        # Half a beat apart, not at once: a consumer that always polls costs more than the part's own work.
        while not self._stop.wait(self._reporter.beat_seconds / 2):
            for record in reader.poll(POLL_SECONDS):
                status: PartStatus = record.event
                if self._reporter.is_own(status):
                    self._clock.take(record.timestamp_ns)
                    self._heard_ns, self._has_listened = status.created_ns, False
                elif is_of_part(status, self._reporter) and self._is_successor(status):
                    self._newer = status

    def _is_successor(self, status: PartStatus) -> bool:
        holds_epoch = self._succession.shows(
            instance=status.instance,
            epoch=status.epoch,
            claimed_epoch=claimed_epoch(status.measures),
            created_ns=status.created_ns,
        )
        return holds_epoch and status.epoch > self.epoch

    def _reopen(self) -> Reader | None:
        """A new reader, or None if told to stop."""
        while not self._stop.wait(REOPEN_SECONDS):
            try:
                return self._bus.reader([PARTS], is_patient=True)
            except Exception as error:
                LOG.debug("the statuses cannot be read yet: %s", error)
        return None


class _Claimant:
    """One process on its way to the lease."""

    def __init__(
        self, reporter: PartReporter, reader: Reader, clock: LogClock, silence_seconds: float, stop: threading.Event
    ) -> None:
        self._reporter = reporter
        self._reader = reader
        self._clock = clock
        self._silence_seconds = silence_seconds
        self._stop = stop
        self._claims = Claims(reporter, clock)
        self._round = random.getrandbits(32)

    def claim(self, above: int) -> int:
        """The epoch that this process holds from now on."""
        self._await_echo()
        self._claims.follow_live()
        while True:
            self._wait_until_free()
            epoch = self._claims.begin_claim(above)
            began = time.monotonic()
            self._await_echo(epoch)
            # A claim that was long on its way may have overtaken others that are compacted away by now.
            if self._claims.has_claimed and time.monotonic() - began < self._silence_seconds:
                self._reporter.hold(epoch)
                return epoch

    def _wait_until_free(self) -> None:
        while contenders := self._claims.find_contenders(self._silence_seconds):
            part = self._reporter.part
            for contender in contenders:
                if self._claims.lives(contender):
                    raise UserError(
                        f"{contender.instance} is its {part} already, and at work",
                        where=f"run {self._reporter.run}",
                        remedy="stop that one first, or give another run.id",
                    )
            names = ", ".join(contender.instance for contender in contenders)
            self._reporter.report(PartState.STARTING, f"word from {names}, the {part} so far, or its silence")
            self._stop.wait(self._reporter.beat_seconds / 4)
            self._await_echo()

    def _await_echo(self, claimed_epoch: int = 0) -> None:
        """Tell a status of a new round, and read until it comes back; what is lost on the way is told again."""
        self._round += 1
        told_at = -self._reporter.beat_seconds
        is_back = False
        while not is_back:
            if self._stop.is_set():
                raise StoppedError
            if time.monotonic() - told_at >= self._reporter.beat_seconds / 2:
                told_at = time.monotonic()
                self._reporter.tell_claim(claim_measures(self._claims.newest_epoch, self._round, claimed_epoch))
            for record in self._reader.poll(POLL_SECONDS):
                self._claims.take(record.event)
                if self._reporter.is_own(record.event):
                    self._clock.take(record.timestamp_ns)
                is_back |= self._claims.is_echo(record.event, self._round)
