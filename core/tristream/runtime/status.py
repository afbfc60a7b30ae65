"""What a part does: an event for everybody, and a small JSON file for the probe beside it."""

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from tristream.runtime.hooks import reach
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Part, PartState, PartStatus, VerifierLoad

Publish = Callable[[PartStatus], object]


def instance_name(pid: int) -> str:
    """What a process of this machine is called in its statuses, such as ``host-4711``."""
    return f"{socket.gethostname()}-{pid}"


class PartReporter:
    """Tells what this process does and what it waits for.

    A new state or address is told at once, everything else at most every ``min_interval_seconds``; so call it
    again and again. Before ``connect`` only the file is written.
    """

    def __init__(self, folder: RunFolder, run: str, part: Part, *, min_interval_seconds: float = 0.5) -> None:
        self.instance = instance_name(os.getpid())
        """Tells this process from others of its part."""
        self._path = folder.status / f"{part}.json"
        self._run = run
        self._part = part
        self._min_interval_seconds = min_interval_seconds
        self._publish: Publish | None = None
        self._started_ns = self._since_ns = time.time_ns()
        self._waits: tuple[PartState | None, str] = (None, "")
        self._told: tuple[PartState | None, str] = (None, "")
        self._told_seconds = 0.0
        self._address = ""
        self._measures: dict[str, float] = {}
        self._verifiers: tuple[VerifierLoad, ...] = ()
        folder.status.mkdir(parents=True, exist_ok=True)

    def connect(self, publish: Publish) -> None:
        """Publish every status from now on, such as by ``lambda status: bus.tell(PARTS, status)``."""
        self._publish = publish
        self._told = (None, "")

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
        self._measures.update(measures or {})
        self._address = self._address if address is None else address
        self._verifiers = self._verifiers if verifiers is None else verifiers
        now_seconds = time.monotonic()
        if self._waits != (state, waiting_for):
            self._waits, self._since_ns = (state, waiting_for), time.time_ns()
        is_new = self._told != (state, self._address)
        if not is_new and now_seconds - self._told_seconds < self._min_interval_seconds:
            return
        self._told, self._told_seconds = (state, self._address), now_seconds
        status = PartStatus(
            run=self._run,
            part=self._part,
            instance=self.instance,
            state=state,
            waiting_for=waiting_for,
            since_ns=self._since_ns,
            started_ns=self._started_ns,
            created_ns=time.time_ns(),
            address=self._address,
            measures=dict(self._measures),
            verifiers=self._verifiers,
        )
        self._write(status)
        if self._publish is not None:
            self._publish(status)

    def _write(self, status: PartStatus) -> None:
        content: dict[str, Any] = {
            "state": status.state,
            "waiting_for": status.waiting_for,
            "instance": status.instance,
            "pid": os.getpid(),
            "time": status.created_ns / 1e9,
            "address": status.address,
            "measures": status.measures,
        }
        temporary = self._path.with_suffix(f".{self.instance}.tmp")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(self._path)
        reach("status.renamed")
