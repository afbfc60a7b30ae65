"""What a part does: an event for everybody, and a small JSON file for the probe beside it.

A status is never worth a part's life: a folder that cannot be written and a bus that does not take it are logged once.
"""

import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tristream.runtime.bus.patience import describe_silence
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.hooks import reach
from tristream.runtime.process_measures import read_process_measures
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.waits import WaitClock
from tristream.wire.events import Part, PartState, PartStatus, VerifierLoad
from tristream.wire.events.parts import LAG
from tristream.wire.topics import PARTS

LOG = logging.getLogger("tristream.status")

Publish = Callable[[PartStatus], object]

BEAT_SECONDS = 1.0
"""A part that beats tells its status at least so often."""
SILENT_BROKER_SECONDS = 5.0
"""A broker that has not answered for so long is what a part waits for, whatever else it says."""
TELL_WAIT_SECONDS = 1.0
"""Longest wait for another thread that is telling a status."""


def instance_name(pid: int) -> str:
    """What a process of this machine is called in its statuses, such as ``host-4711``."""
    return f"{socket.gethostname()}-{pid}"


class PartReporter:
    """Tells what this process does and what it waits for; any thread may use it.

    A new state or address is told at once, everything else at most every ``min_interval_seconds``; so call it
    again and again. Before it is connected only the file is written.
    """

    def __init__(
        self,
        folder: RunFolder,
        run: str,
        part: Part,
        *,
        min_interval_seconds: float = 0.5,
        beat_seconds: float = BEAT_SECONDS,
        instance: str | None = None,
        file_name: str = "",
    ) -> None:
        """Take the run's folder, and how often to tell; the file is called after the part unless it has a name."""
        self.run = run
        self.part = part
        self.instance = instance or instance_name(os.getpid())
        """Tells this process from others of its part."""
        self.started_ns = time.time_ns()
        """Tells it from earlier processes of the same name."""
        self.beat_seconds = beat_seconds
        self._path = folder.status / f"{file_name or part}.json"
        self._min_interval_seconds = min_interval_seconds
        self._publish: Publish | None = None
        self._bus: Bus | None = None
        self._status = PartStatus(
            run=run,
            part=part,
            instance=self.instance,
            state=PartState.STARTING,
            since_ns=self.started_ns,
            started_ns=self.started_ns,
            created_ns=self.started_ns,
        )
        self._claim_measures: Mapping[str, float] = {}
        self._process_measures: Mapping[str, float] = {}
        self._measured_seconds = -math.inf
        self._waits = WaitClock()
        self._has_reported = False
        self._told: tuple[PartState | None, str] = (None, "")
        self._told_seconds = 0.0
        self._state_lock = threading.RLock()
        self._file_lock = threading.Lock()
        self._tell_lock = threading.Lock()
        self._logged: set[str] = set()
        self._beating: threading.Thread | None = None
        self._stop_beating = threading.Event()

    @property
    def status(self) -> PartStatus:
        """What would be told now."""
        return self._compose()

    @property
    def wait_seconds(self) -> Mapping[str, float]:
        """How long it has waited for each reason since it started."""
        with self._state_lock:
            return self._waits.seconds()

    @property
    def epoch(self) -> int:
        """Epoch under which this process holds its part; 0 if it does not."""
        return self._status.epoch

    def is_own(self, status: PartStatus) -> bool:
        """Whether this process told a status, and not an earlier one of its name."""
        return (status.instance, status.started_ns) == (self.instance, self.started_ns)

    def connect(self, publish: Publish) -> None:
        """Publish every status from now on; ``connect_to`` does it on a bus."""
        with self._state_lock:
            self._publish = publish
            self._told = (None, "")

    def connect_to(self, bus: Bus) -> None:
        """Publish every status on a bus from now on, and say so if its broker does not answer.

        From now on a status tells what the process takes, and as ``lag_TOPIC`` how many records of each topic the bus
        has not read yet.
        """
        self._bus = bus
        self.connect(lambda status: bus.tell(PARTS, status))

    def report(
        self,
        state: PartState,
        waiting_for: str = "",
        *,
        address: str | None = None,
        measures: Mapping[str, float] | None = None,
        verifiers: tuple[VerifierLoad, ...] | None = None,
    ) -> None:
        """Tell the state; address, measures and verifiers are kept until they are replaced."""
        with self._state_lock:
            before = self._status
            is_same = self._has_reported and (before.state, before.waiting_for) == (state, waiting_for)
            self._waits.observe(waiting_for)
            self._has_reported = True
            self._status = replace(
                before,
                state=state,
                waiting_for=waiting_for,
                since_ns=before.since_ns if is_same else time.time_ns(),
                address=before.address if address is None else address,
                measures={**before.measures, **(measures or {})},
                verifiers=before.verifiers if verifiers is None else verifiers,
            )
            is_new = self._told != (state, self._status.address)
            if not is_new and time.monotonic() - self._told_seconds < self._min_interval_seconds:
                return
        self.beat()

    def beat(self) -> None:
        """Tell the last status again, now."""
        with self._state_lock:
            self._told, self._told_seconds = (self._status.state, self._status.address), time.monotonic()
        self._write()
        if self._publish is None:
            return
        if not self._tell_lock.acquire(timeout=TELL_WAIT_SECONDS):
            return  # the other thread is stuck in the bus; the next beat tells what is newest then
        try:
            self._publish(self._compose())
        except Exception as error:
            self._log_once("status", f"a status cannot be told: {error}")
        finally:
            self._tell_lock.release()

    def tell_claim(self, measures: Mapping[str, float]) -> None:
        """Add what a claim says to every status from now on, and tell it at once (``tristream.runtime.claims``)."""
        with self._state_lock:
            self._claim_measures = dict(measures)
        self.beat()

    def hold(self, epoch: int) -> None:
        """Tell every status under this epoch from now on, and without a claim."""
        with self._state_lock:
            self._status = replace(self._status, epoch=epoch)
        self.tell_claim({})

    def start_beating(self) -> None:
        """Tell the last status again every second from now on, from a thread of its own, until ``stop_beating``."""
        if self._beating is None:
            self._stop_beating.clear()
            self._beating = threading.Thread(target=self._beat_again, name="beats", daemon=True)
            self._beating.start()

    def stop_beating(self) -> None:
        """Tell nothing again by itself."""
        self._stop_beating.set()
        if self._beating is not None:
            self._beating.join(TELL_WAIT_SECONDS)
            self._beating = None

    def _beat_again(self) -> None:
        while not self._stop_beating.wait(self.beat_seconds / 4):
            if time.monotonic() - self._told_seconds >= self.beat_seconds:
                self.beat()

    def _compose(self) -> PartStatus:
        """The status as it is now; what it says comes from the silence of the broker while that lasts."""
        with self._state_lock:
            now_ns = time.time_ns()
            measures = {**self._measure(), **self._status.measures, **self._claim_measures}
            status = replace(self._status, created_ns=now_ns, measures=measures)
        silent_seconds = 0.0 if self._bus is None else self._bus.silent_seconds
        if self._bus is None or silent_seconds <= SILENT_BROKER_SECONDS:
            return status
        waiting_for = describe_silence(self._bus.address, silent_seconds)
        return replace(status, waiting_for=waiting_for, since_ns=now_ns - int(silent_seconds * 1e9))

    def _measure(self) -> Mapping[str, float]:
        """What this process takes and has not read yet, looked at once a beat."""
        now = time.monotonic()
        if self._bus is not None and now - self._measured_seconds >= BEAT_SECONDS:
            self._measured_seconds = now
            lags = {f"{LAG}{topic}": float(number) for topic, number in self._bus.lags.items()}
            self._process_measures = {**read_process_measures(), **lags}
        return self._process_measures

    def _write(self) -> None:
        with self._file_lock:
            status = self._compose()
            content: dict[str, Any] = {
                "state": status.state,
                "waiting_for": status.waiting_for,
                "instance": status.instance,
                "pid": os.getpid(),
                "time": status.created_ns / 1e9,
                "address": status.address,
                "measures": status.measures,
            }
            temporary = self._path.with_name(f"{self._path.stem}.{self.instance}.tmp")
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_text(json.dumps(content), encoding="utf-8")
                temporary.replace(self._path)
            except OSError as error:
                self._log_once("file", f"the status file cannot be written: {error}")
                return
        reach("status.renamed")

    def _log_once(self, kind: str, message: str) -> None:
        if kind not in self._logged:
            self._logged.add(kind)
            LOG.warning("%s; this is said once", message)
