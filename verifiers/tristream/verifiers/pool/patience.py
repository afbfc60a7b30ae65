"""How long a task may hold a slot while others wait."""

from tristream.verifiers.pool.children import Child

MIN_CPU_SECONDS = 0.05
MAX_IDLE_WALL_SECONDS = 1.0
"""A task that has waited for so long, rather than computed, waits elsewhere."""
_TIMES_AS_LONG = 4.0
"""A task is slow if it takes so much longer than others of its verifier."""
_SHARE_OF_NEWEST = 0.02


class Patience:
    """Learns what a task of each verifier takes."""

    min_seconds = MIN_CPU_SECONDS
    """Shorter tasks are never looked at."""

    def __init__(self) -> None:
        self._mean_cpu_seconds: dict[str, float] = {}

    def learn(self, verifier: str, cpu_seconds: float) -> None:
        """A task took so much."""
        mean = self._mean_cpu_seconds.get(verifier, 0.0)
        self._mean_cpu_seconds[verifier] = mean + _SHARE_OF_NEWEST * (cpu_seconds - mean)

    def cpu_seconds(self, child: Child, verifier: str) -> float:
        """CPU time after which a task steps aside: not before a new child in its place pays off."""
        mean = self._mean_cpu_seconds.get(verifier, 0.0)
        return max(MIN_CPU_SECONDS, _TIMES_AS_LONG * mean, 2 * child.start_cpu_seconds)

    def is_waiting(self, cpu_seconds: float, wall_seconds: float) -> bool:
        """Whether a task waits for something else than the CPU."""
        return wall_seconds >= MAX_IDLE_WALL_SECONDS and cpu_seconds < 0.01 * wall_seconds
