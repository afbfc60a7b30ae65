"""What runs in a child process: judge tasks from a pipe, one verdict for each.

The parent kills a child that is late. Should the parent be dead too, a timer of the kernel ends the
child, and a closed pipe ends an idle one: no child outlives its parent for long.
"""

import math
import signal
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from tristream.verifiers.verifier import Score, ScoringRequest, Unscorable, Verifier
from tristream.wire.events import Status

GRACE_SECONDS = 1.0
"""Past the deadline by this much, a child ends itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One request for one verifier."""

    verifier: str
    """Its key in the pool."""
    request: ScoringRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a task; only SCORED has components."""

    status: Status
    detail: str = ""
    components: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    params_used: Mapping[str, Any] = field(default_factory=dict)
    score_seconds: float = 0.0


def run_child(connection: Connection, verifiers: Mapping[str, type[Verifier]], deadline_seconds: float) -> None:
    """Judge lists of tasks until the pipe closes; the first message out says that the child is warm."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops us in order
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even inside C code
    made = {name: verifier() for name, verifier in verifiers.items()}
    try:
        connection.send(None)
        while True:
            for task in connection.recv():
                signal.setitimer(signal.ITIMER_REAL, deadline_seconds + GRACE_SECONDS)
                verdict = score_request(made[task.verifier], task.request)
                signal.setitimer(signal.ITIMER_REAL, 0)
                connection.send(verdict)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def score_request(verifier: Verifier, request: ScoringRequest) -> Verdict:
    """Score a request; whatever goes wrong becomes a status, never a number."""
    start = time.perf_counter()
    try:
        score = verifier.score(request)
        _check(score)
    except Unscorable as error:
        return Verdict(status=Status.UNSCORABLE, detail=str(error), score_seconds=time.perf_counter() - start)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
        return Verdict(
            status=Status.ERROR,
            detail=f"{type(error).__name__}: {str(error)[:300]} ({place})",
            score_seconds=time.perf_counter() - start,
        )
    return Verdict(
        status=Status.SCORED,
        components=dict(score.components),
        metrics=dict(score.metrics),
        params_used=dict(score.params_used),
        score_seconds=time.perf_counter() - start,
    )


def _check(score: Score) -> None:
    """Refuse numbers that would poison means; nothing downstream can tell where they came from."""
    for kind, values in (("component", score.components), ("metric", score.metrics)):
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"{kind} '{name}' is {value}")
