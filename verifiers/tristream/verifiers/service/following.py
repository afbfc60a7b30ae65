"""Following the log for the life of an added verifier, in a thread of its own."""

import logging
import threading
from types import TracebackType
from typing import Self

from tristream.runtime.bus.protocol import Bus, Reader
from tristream.runtime.errors import StoppedError
from tristream.verifiers.service.addition import Addition
from tristream.verifiers.service.terms import Shadow
from tristream.wire.events import Command
from tristream.wire.topics import COMMANDS, POLICY

LOG = logging.getLogger("tristream.verifier")

POLL_SECONDS = 0.5


class FollowedAddition:
    """An added verifier as the log says of it, to its end and on; within ``with`` it is followed.

    Args:
        bus: where the commands and policy versions are.
        name: ``NAME@VERSION``.

    Raises:
        UserError: nobody has added it.
        StoppedError: told to stop while the broker was away.
    """

    def __init__(self, bus: Bus, name: str) -> None:
        self._addition = Addition(bus.run, name)
        self._reader: Reader = bus.reader([COMMANDS, POLICY], is_patient=True)
        for record in self._reader.read_to_end():
            self._addition.observe(record)
        self.shadow: Shadow = self._addition.begin()
        """How it scores what does not ask for it; changes when it is retired."""
        self.over = threading.Event()
        """Set once it is retired and nothing is left to be done."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="verifier-commands", daemon=True)

    @property
    def command(self) -> Command:
        """The command that added it."""
        assert self._addition.command is not None, "it has begun"
        return self._addition.command

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=2 * POLL_SECONDS)

    def _follow(self) -> None:
        try:
            while not self._stop.is_set():
                if self._addition.is_over:
                    LOG.info("%s is retired, and all that asked for it is settled", self._addition.name)
                    self.over.set()
                    return
                for record in self._reader.poll(POLL_SECONDS):
                    self._addition.observe(record)
                self._addition.tell(self.shadow)
        except StoppedError:
            return
        except Exception:
            LOG.exception("the commands cannot be followed: the verifier does not hear that it is retired")
        finally:
            self._reader.close()
