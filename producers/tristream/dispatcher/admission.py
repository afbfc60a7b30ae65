"""Which training prompts may be dispatched now: a pure state machine.

Invariants: a number is dispatched at most once; dropped numbers are dispatched numbers;
``|dispatched| - |dropped| <= min(eta + version + 1, total_steps) * B`` holds after every admission, so
that exactly ``total_steps * B`` groups are trained and none is left over. The state is a set of facts,
so that it comes back from the log in any order, with repeats.
"""

from dataclasses import dataclass

from tristream.wire.events import PolicyVersion, Progress
from tristream.wire.ledger import IntervalSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A prompt to dispatch."""

    number: int
    progress: Progress


class Admission:
    """Admits prompt numbers within the staleness bound.

    Example:
        >>> admission = Admission(total_steps=2, groups_per_step=1, max_staleness=0)
        >>> admission.observe_version(0)
        >>> admission.admit(), admission.admit()
        (Admitted(number=0, progress=Progress(step=1, total_steps=2)), None)
    """

    def __init__(self, *, total_steps: int, groups_per_step: int, max_staleness: int) -> None:
        self._total_steps = total_steps
        self._groups_per_step = groups_per_step
        self._max_staleness = max_staleness
        self._dispatched = IntervalSet()
        self._dropped = IntervalSet()
        self._version: int | None = None

    @property
    def version(self) -> int | None:
        """The learner's version, or None before it announced one."""
        return self._version

    @property
    def num_dispatched(self) -> int:
        """Training groups dispatched so far."""
        return len(self._dispatched)

    @property
    def num_dropped(self) -> int:
        """Training groups dropped so far."""
        return len(self._dropped)

    @property
    def bound(self) -> int:
        """Most groups that may be dispatched and not dropped at this version."""
        if self._version is None:
            return 0
        return min(self._max_staleness + self._version + 1, self._total_steps) * self._groups_per_step

    def observe_version(self, version: int) -> None:
        """The learner is at a version; after a resume that may be an earlier one."""
        self._version = version

    def observe_policy(self, policy: PolicyVersion) -> None:
        """The learner announced a version and what its checkpoint settles."""
        self.observe_version(policy.weights.version)
        self._dispatched = IntervalSet((*self._dispatched.intervals, *policy.settled, *policy.dropped))
        self._dropped = IntervalSet((*self._dropped.intervals, *policy.dropped))

    def observe_dispatched(self, number: int) -> None:
        """A prompt is on the log."""
        self._dispatched.add(number)

    def observe_dropped(self, number: int) -> None:
        """A group was dropped; another will be dispatched in its place."""
        self._dispatched.add(number)
        self._dropped.add(number)

    def admit(self) -> Admitted | None:
        """The next prompt to dispatch, smallest number first, or None while the bound holds it back."""
        num_in_play = self.num_dispatched - self.num_dropped
        if num_in_play >= self.bound:
            return None
        number = self._dispatched.first_missing()
        self._dispatched.add(number)
        step = min(self._total_steps, num_in_play // self._groups_per_step + 1)
        return Admitted(number=number, progress=Progress(step=step, total_steps=self._total_steps))
