"""The prompts that fall to this producer, as a member of the group of all producers.

A reader that gets nothing may have come to the end of the log, or may have lost its group without a word: on some
brokers a group stands still after a member has come and gone. So a silent reader marks the end of its partitions: the
mark comes back where the log is empty, and where it does not come back the reader joins anew.

    nothing for IDLE_SECONDS -> mark -> it is read: there are no prompts
                                     -> it is not: join anew, MAX_REJOINS times, then end to be started again

Prompts are committed in order, up to the first that is not delivered; so those that a producer has begun and not
delivered when it dies are read by another.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tristream.producer.open_prompts import OpenPrompts, Partition
from tristream.runtime.bus.protocol import Bus, Mark, Record
from tristream.runtime.errors import TryAgainError
from tristream.wire.events import Prompt
from tristream.wire.topics import PROMPTS

LOG = logging.getLogger("tristream.producer")

GROUP = "producers"
POLL_SECONDS = 0.2
IDLE_SECONDS = 5.0
"""A reader that got nothing for so long finds out why."""
MARK_SECONDS = 15.0
"""A mark that is not read after this time does not come any more; joining a group may take half of it."""
CHECK_AGAIN_SECONDS = 30.0
"""A reader that goes on getting nothing finds out again after this time."""
SILENT_SECONDS = 1.5
"""A broker that has not acknowledged anything for so long is what is waited for."""
ASK_SECONDS = 1.0
"""How often a reader without partitions looks whether it has some."""
FIRST_JOIN_SECONDS = 60.0
"""A reader without partitions joins anew after this time, and then after ever longer ones."""
LONGEST_JOIN_SECONDS = 600.0
MAX_REJOINS = 3
MAX_GROUP_SIZE = 4096
"""No prompt asks for more answers."""
JOINING = "partitions of the prompts, which the producers of a run share"
READING = "the end of the prompts on the log"


class PromptReader:
    """Reads prompts for the group of all producers; used by one thread. ``say`` is told what is waited for."""

    def __init__(self, bus: Bus, say: Callable[[str], None]) -> None:
        self._bus = bus
        self._say = say
        self._reader = bus.reader([PROMPTS], group=GROUP)
        self._open = OpenPrompts()
        self._committed: dict[Partition, int] = {}
        self._mark: Mark | None = None
        self._marked: frozenset[Partition] = frozenset()
        self._waits_for = JOINING
        self._num_rejoins = 0
        self._next_check = time.monotonic()
        self._join_seconds = FIRST_JOIN_SECONDS
        self._join_by = time.monotonic() + self._join_seconds

    def take(self, max_prompts: int) -> list[Prompt]:
        """The next prompts, or none after a short while.

        Raises:
            TryAgainError: the group makes no progress, however often it is joined.
        """
        records = self._reader.poll(POLL_SECONDS, max_records=max_prompts)
        if records:
            self._note_progress(READING, IDLE_SECONDS)
        else:
            self._find_out_why()
            self._say(self._waits_for)
        sound = [record for record in records if self._is_sound(record)]
        return [record.event for record in sound if self._open.take(record)]

    def stay(self) -> None:
        """Take nothing and stay in the group; without this no other member could join it for long."""
        self._reader.pause()
        self._reader.poll(0.0)
        self._reader.resume()
        self._mark, self._next_check = None, time.monotonic() + IDLE_SECONDS

    def commit(self, delivered: Iterable[str]) -> None:
        """Remember, for the group, what is delivered, up to the first prompt of each partition that is not.

        Args:
            delivered: ids of groups whose rollouts are all acknowledged since the last time.

        Raises:
            BusError: the broker refuses it.
            StoppedError: told to stop while it did not answer.
        """
        for group_id in delivered:
            self._open.deliver(group_id)
        handled = self._open.handled(self._reader.positions())
        if handled != self._committed:
            self._reader.commit(handled)
            self._committed = handled

    def close(self) -> None:
        """Leave the group."""
        self._reader.close()

    def _find_out_why(self) -> None:
        """Nothing came: find out whether it is for want of prompts, and join anew if it is not."""
        now = time.monotonic()
        if self._bus.silent_seconds > SILENT_SECONDS:  # nothing can be found out now
            self._mark, self._waits_for, self._next_check = None, "the broker", now + IDLE_SECONDS
            return
        if self._mark is not None and self._reader.has_passed(self._mark):
            self._note_progress("prompts from the dispatcher", CHECK_AGAIN_SECONDS)
        elif now < self._next_check:
            return
        elif self._mark is None or self._partitions() != self._marked:
            self._set_mark(now)
        else:
            self._require_progress()
            self._join_anew("it makes no progress")

    def _set_mark(self, now: float) -> None:
        self._mark, self._marked = None, self._partitions()
        if self._marked:
            self._mark, self._next_check = self._reader.mark_end(), now + MARK_SECONDS
            return
        self._next_check = now + ASK_SECONDS
        # A member that there is no partition left for is as it should be, so it asks again ever more seldom.
        self._waits_for = JOINING
        if now >= self._join_by:
            self._join_seconds = min(2 * self._join_seconds, LONGEST_JOIN_SECONDS)
            self._join_anew("it has no partitions for this one")

    def _require_progress(self) -> None:
        if self._num_rejoins >= MAX_REJOINS:
            raise TryAgainError(
                "the group of the producers makes no progress: what lies on the log is not read, and joining it "
                f"{MAX_REJOINS} times did not help"
            )
        self._num_rejoins += 1

    def _join_anew(self, reason: str) -> None:
        LOG.warning("leaving and joining the group of the producers: %s", reason)
        self._waits_for = f"its group, joined anew because {reason}"
        self._say(self._waits_for)
        self._reader.close()
        self._reader = self._bus.reader([PROMPTS], group=GROUP)
        now = time.monotonic()
        self._mark, self._next_check, self._join_by = None, now + IDLE_SECONDS, now + self._join_seconds

    def _note_progress(self, waits_for: str, check_seconds: float) -> None:
        """Something was read, an event or a mark."""
        now = time.monotonic()
        self._mark, self._waits_for, self._num_rejoins = None, waits_for, 0
        self._join_seconds = FIRST_JOIN_SECONDS
        self._next_check, self._join_by = now + check_seconds, now + self._join_seconds

    def _partitions(self) -> frozenset[Partition]:
        return frozenset(self._reader.positions())

    def _is_sound(self, record: Record[Prompt]) -> bool:
        """Whether a prompt can be answered, even by failed rollouts; if not it is a dead letter."""
        size = record.event.group.size
        if size <= MAX_GROUP_SIZE:
            return True
        raw: Any = replace(record, event=PROMPTS.codec.encode(record.event))  # type: ignore[arg-type]
        self._bus.dead_letter(raw, f"a prompt asks for {size} answers, and {MAX_GROUP_SIZE} are the most")
        return False
