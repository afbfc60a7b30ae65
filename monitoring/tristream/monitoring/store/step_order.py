"""The steps of a run in the order of their reports, which says for which step a dropped group counts."""

from bisect import bisect_left
from collections.abc import Mapping


class StepOrder:
    """When each step was reported; ``times_ns`` by step."""

    def __init__(self, times_ns: Mapping[int, int]) -> None:
        self.times_ns = dict(times_ns)
        self._sorted = sorted((time_ns, step) for step, time_ns in self.times_ns.items())
        self._times = [time_ns for time_ns, _ in self._sorted]

    def updated(self, times_ns: Mapping[int, int]) -> "StepOrder":
        """The same with some steps reported anew."""
        return StepOrder({**self.times_ns, **times_ns}) if times_ns else self

    def at(self, time_ns: int) -> list[int]:
        """The steps, one unless reports were made at the same time, that something counts for which happened then."""
        first = bisect_left(self._times, time_ns)
        if first == len(self._times):
            return []
        end = first
        while end < len(self._times) and self._times[end] == self._times[first]:
            end += 1
        return [step for _, step in self._sorted[first:end]]

    def span(self, step: int) -> tuple[int, int]:
        """First and last nanosecond of what counts for a step."""
        time_ns = self.times_ns[step]
        position = bisect_left(self._times, time_ns)
        return (self._times[position - 1] + 1 if position else -(2**63)), time_ns
