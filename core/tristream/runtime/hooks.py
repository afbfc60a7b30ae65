"""Named points in a part's life at which a test can kill it: every publish, flush, commit and rename.

``TRISTREAM_KILL_AT=learner:checkpoint.renamed`` kills the part ``learner`` by SIGKILL when it reaches the point the
first time, ``learner:checkpoint.renamed:3`` the third time. Unset, a point costs one comparison. Points of the bus
are ``publish.TOPIC``, ``flush`` and ``commit``; the others are named where they are.
"""

import os
import signal
from collections import Counter

VARIABLE = "TRISTREAM_KILL_AT"

_part, _, _rest = os.environ.get(VARIABLE, "").partition(":")
_point, _, _count = _rest.partition(":")
_reached: Counter[str] = Counter()
_own_part = ""


def name_this_part(part: str) -> None:
    """Say which part this process is."""
    global _own_part  # noqa: PLW0603 - a process is one part
    _own_part = part


def reach(point: str) -> None:
    """Mark a point; the process ends here if it was told to."""
    if _point != point or _part != _own_part:
        return
    _reached[point] += 1
    if _reached[point] == int(_count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
