"""From records of the rollouts topic to rollouts: what is not wanted is skipped undecoded, what is none is buried."""

from tristream.runtime.bus.protocol import Bus, BusError, Record
from tristream.runtime.bus.records import LogStart, decode_record, foreign_contract, is_mark
from tristream.runtime.errors import StoppedError, UserError
from tristream.verifiers.pool.texts import clean
from tristream.verifiers.service.answers import ANSWERS, Answer
from tristream.verifiers.service.terms import Serving


class BuriedError(Exception):
    """The record became a dead letter, which is not acknowledged yet."""


class RolloutReader:
    """Reads the records of one worker, each partition in order; used by one thread."""

    def __init__(self, serving: Serving, bus: Bus) -> None:
        self._serving = serving
        self._bus = bus
        self._log_start = LogStart()
        self.num_dead_letters = 0

    def read(self, record: Record[bytes]) -> Answer | None:
        """The rollout, if one of its terms may be ours.

        Raises:
            BuriedError: it cannot be read.
            UserError: the log was begun under another contract.
            BusError: the broker refused an earlier record.
            StoppedError: told to stop while the broker was away.
        """
        marks = is_mark(record)
        is_first = self._log_start.is_first(record.topic, record.partition, record.offset, is_barrier=marks)
        if marks:
            return None
        is_ours = foreign_contract(record.headers) is None
        if is_ours and not self._serving.may_want(record.headers, record.timestamp_ns):
            return None
        try:
            decoded = decode_record(self._bus, ANSWERS, record, is_first=is_first)
        except (UserError, BusError, StoppedError):
            raise
        except Exception as error:  # poison comes in every shape, and concerns this record alone
            self._bus.dead_letter(record, clean(f"it cannot be read: {error}"))
            decoded = None
        if decoded is None:
            self.num_dead_letters += 1
            raise BuriedError
        answer: Answer = decoded.event
        return answer
