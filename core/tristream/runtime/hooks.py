"""Named points in a part's life at which a test can kill it: every publish, flush, commit and rename.

``TRISTREAM_KILL_AT=learner:checkpoint.renamed`` kills the part ``learner`` by SIGKILL when it reaches the point the
first time, ``learner:checkpoint.renamed:3`` the third time; several are separated by commas. ``tristream up`` starts a
part that was killed without the variable. Points of the bus are ``publish.TOPIC``, ``barrier.TOPIC``, ``fence.TOPIC``,
``flush`` and ``commit``; the others are named where they are.
"""

import os
import signal

VARIABLE = "TRISTREAM_KILL_AT"

_fatal_counts: dict[str, int] = {}
"""Times a point is reached until it kills this process, by point."""


def name_this_part(part: str) -> None:
    """Say which part this process is; it is the one that the points named for it kill."""
    _fatal_counts.clear()
    for place in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, rest = place.partition(":")
        point, _, count = rest.partition(":")
        if name == part:
            _fatal_counts[point] = int(count or 1)


def reach(point: str) -> None:
    """Mark a point; the process ends here if it was told to."""
    if point not in _fatal_counts:
        return
    _fatal_counts[point] -= 1
    if _fatal_counts[point] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
