"""How long a task may hold a slot while others wait."""

from tristream.verifiers.pool.tasks import Verdict
from tristream.wire.events import Status

MIN_CPU_SECONDS = 0.03
FIRST_CPU_SECONDS = 0.05
"""The least for the first tasks of a child, which has everything to learn."""
MAX_IDLE_WALL_SECONDS = 1.0
"""A task that has waited for so long, rather than computed, waits elsewhere."""
_TIMES_AS_LONG = 4.0
"""A task is slow if it takes so much longer than others of its verifier."""
_SHARE_OF_NEWEST = 0.02
_NUM_FIRST_TASKS = 64


class Patience:
    """Learns what a task of each verifier takes."""

    min_seconds = MIN_CPU_SECONDS
    """Shorter tasks are never looked at."""

    def __init__(self) -> None:
        self._mean_cpu_seconds: dict[str, float] = {}

    def learn(self, verifier: str, verdict: Verdict) -> None:
        """A task came to this; what uses up its limits says nothing about the others."""
        if verdict.status is not Status.TIMEOUT:
            mean = self._mean_cpu_seconds.get(verifier, 0.0)
            self._mean_cpu_seconds[verifier] = mean + _SHARE_OF_NEWEST * (verdict.cpu_seconds - mean)

    def cpu_seconds(self, verifier: str, *, num_tasks: int, start_cpu_seconds: float) -> float:
        """CPU time after which a task steps aside: not before a new child in its place pays off.

        Args:
            verifier: ``NAME@VERSION``.
            num_tasks: that its child was given so far.
            start_cpu_seconds: that its child took to be ready.
        """
        mean = self._mean_cpu_seconds.get(verifier, 0.0)
        least_seconds = MIN_CPU_SECONDS if num_tasks > _NUM_FIRST_TASKS else FIRST_CPU_SECONDS
        return max(least_seconds, _TIMES_AS_LONG * mean, 2 * start_cpu_seconds)

    def is_waiting(self, cpu_seconds: float, wall_seconds: float) -> bool:
        """Whether a task waits for something else than the CPU."""
        return wall_seconds >= MAX_IDLE_WALL_SECONDS and cpu_seconds < 0.01 * wall_seconds
