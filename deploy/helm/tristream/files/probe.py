"""Probe of a part: ``probe.py FILE SILENT_SECONDS [ready]``; exits 0 if the part is well, else says why and exits 1.

A part is started once its status is no longer ``starting``, and alive while it writes its status. A status from
before this container started is none: volumes outlive containers.
"""

import json
import os
import sys
import time
from pathlib import Path


def find_fault(path: Path, silent_seconds: float, *, must_be_ready: bool) -> str:
    """What is wrong, or nothing."""
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"no status yet: {error}"
    age_seconds = time.time() - status["time"]
    if age_seconds > container_age_seconds():
        return "no status since the container started"
    if age_seconds > silent_seconds:
        return f"silent for {age_seconds:.0f} s, waiting for: {status['waiting_for'] or 'nothing'}"
    if must_be_ready and status["state"] == "starting":
        return f"starting, waiting for: {status['waiting_for'] or 'nothing'}"
    return ""


def container_age_seconds() -> float:
    """Age of process 1, which is the part; see proc(5)."""
    fields = Path("/proc/1/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    started_after_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_after_boot


def main() -> None:
    """Check once."""
    fault = find_fault(Path(sys.argv[1]), float(sys.argv[2]), must_be_ready="ready" in sys.argv[3:])
    if fault:
        sys.exit(fault)


if __name__ == "__main__":
    main()
