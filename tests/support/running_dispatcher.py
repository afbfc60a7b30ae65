"""A dispatcher in a thread on an in-memory log, and what it publishes."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import Self

from tristream.config.parts import DispatcherSettings
from tristream.config.run_file import RunFile
from tristream.dispatcher.dispatcher import Dispatcher
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.status import PartReporter
from tristream.runtime.store import BlobStore
from tristream.wire.events import (
    DropReason,
    Fate,
    Group,
    Interval,
    Ledger,
    LogPosition,
    Outcome,
    Part,
    PartStatus,
    PolicyVersion,
    Prompt,
    Split,
    Weights,
)
from tristream.wire.topics import PARTS, PROMPTS


def make_policy(
    version: int, settled: int = 0, *, durable: int = 0, sha256: str = "0", position: LogPosition | None = None
) -> PolicyVersion:
    return PolicyVersion(
        run="demo",
        weights=Weights(version=version, uri=f"weights/{version}", sha256=sha256),
        total_steps=4,
        durable=Ledger(
            step=durable,
            settled=(Interval(start=0, end=settled),) if settled else (),
            position=position or LogPosition(),
        ),
        created_ns=1,
    )


def make_outcome(group: Group, fate: Fate, reason: DropReason = DropReason.ZERO_VARIANCE) -> Outcome:
    drop_reason = reason if fate is Fate.DROPPED else None
    return Outcome(group=group, fate=fate, drop_reason=drop_reason, created_ns=1)


def make_maker(run_file: RunFile) -> PromptMaker:
    settings = DispatcherSettings.of(run_file)
    address = settings.store.address(settings.run.folder)
    return PromptMaker(settings, BlobStore(address, inline_limit_bytes=settings.rollout.inline_image_bytes))


class RunningDispatcher:
    """A dispatcher in a thread, and what it published."""

    def __init__(
        self, run_file: RunFile, bus: MemoryBus, *, instance: str | None = None, patience_seconds: float = 1000.0
    ) -> None:
        self.seconds = 0.0
        """What the clock says by which paused sources are tried again."""
        self._prompts = bus.reader([PROMPTS])
        self._statuses = bus.reader([PARTS])
        list(self._statuses.read_to_end())
        self._seen: list[Prompt] = []
        self._status: PartStatus | None = None
        self._stop = threading.Event()
        self.error: BaseException | None = None
        reporter = PartReporter(
            run_file.run.folder,
            run_file.run.id,
            Part.DISPATCHER,
            min_interval_seconds=0.02,
            beat_seconds=0.1,
            instance=instance,
        )
        dispatcher = Dispatcher(
            DispatcherSettings.of(run_file),
            bus.as_part("dispatcher"),
            make_maker(run_file),
            reporter,
            clock=lambda: self.seconds,
            patience_seconds=patience_seconds,
        )
        self._run_until = dispatcher.run
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._run_until(self._stop)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def wait_until_ended(self) -> None:
        """Wait until it has ended by itself."""
        self.thread.join(10)
        assert not self.thread.is_alive()

    def wait_until_idle(self, waiting_for: str) -> None:
        """Wait until the dispatcher says what it waits for: something that matches, from its beginning."""
        deadline = time.monotonic() + 60
        while (status := self.status()) is None or not status.waiting_for.startswith(waiting_for):
            assert time.monotonic() < deadline, f"it is at {status}"
            assert self.error is None
            time.sleep(0.01)

    def status(self) -> PartStatus | None:
        """The newest status."""
        for record in self._statuses.read_to_end():
            self._status = record.event
        return self._status

    def measure(self, name: str) -> float:
        status = self.status()
        assert status is not None
        return status.measures.get(name, math.nan)

    def prompts(self, split: Split = Split.TRAIN) -> list[Prompt]:
        self._seen += [record.event for record in self._prompts.read_to_end()]
        chosen = [prompt for prompt in self._seen if prompt.group.split is split]
        return sorted(chosen, key=lambda prompt: (prompt.group.eval_step, prompt.group.number))


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def numbers(prompts: Iterable[Prompt]) -> list[int]:
    return [prompt.group.number for prompt in prompts]
