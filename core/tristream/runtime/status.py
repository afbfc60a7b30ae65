"""What a part does right now: one small JSON file a part, for people and for probes."""

import json
import os
import time
from pathlib import Path
from typing import Any


class StatusFile:
    """Tells what a part does and what it waits for.

    Writing is atomic, and at most every ``min_interval_seconds`` unless the state changes.
    """

    def __init__(self, folder: Path, part: str, *, min_interval_seconds: float = 0.5) -> None:
        self._path = folder / f"{part}.json"
        self._min_interval_seconds = min_interval_seconds
        self._last: tuple[str, str] = ("", "")
        self._last_time = 0.0
        self._facts: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def report(self, state: str, waiting_for: str = "", **facts: object) -> None:
        """Write the state: ``starting``, ``ready`` or ``done``; facts are kept until replaced."""
        self._facts.update(facts)
        now = time.time()
        changed = (state, waiting_for) != self._last or "url" in facts or "port" in facts
        if not changed and now - self._last_time < self._min_interval_seconds:
            return
        self._last, self._last_time = (state, waiting_for), now
        status = {"state": state, "waiting_for": waiting_for, "pid": os.getpid(), "time": now, **self._facts}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(status), encoding="utf-8")
        temporary.replace(self._path)


def read_status(folder: Path, part: str) -> dict[str, Any] | None:
    """The last status of a part, or None if it has not reported."""
    try:
        status = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return status if isinstance(status, dict) else None
