"""What the parts of this machine say in their status files: read where their statuses do not come over the bus."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tristream.wire.events import Part, PartState, PartStatus

BROKER_PREFIX = "the broker"
"""How a part begins to say that it waits for the broker."""


def read_status_files(folder: Path, run: str) -> Sequence[PartStatus]:
    """The newest status that each part wrote; a file that is missing or broken is left out.

    When a process was started a file does not say, so ``started_ns`` is when the status was written.
    """
    found = (_read(folder / f"{part}.json", run, part) for part in Part)
    return [status for status in found if status is not None]


def _read(path: Path, run: str, part: Part) -> PartStatus | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        time_ns = int(content["time"] * 1e9)
        return PartStatus(
            run=run,
            part=part,
            instance=content["instance"],
            state=PartState(content["state"]),
            waiting_for=content["waiting_for"],
            since_ns=time_ns,
            started_ns=time_ns,
            created_ns=time_ns,
            address=content["address"],
            measures=content["measures"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
