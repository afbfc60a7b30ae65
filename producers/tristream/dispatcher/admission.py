"""Which training prompts may be dispatched now: a pure state machine.

Invariants: a number is dispatched at most once on one log; dropped numbers are dispatched numbers;
``|dispatched| - |dropped| <= total_steps * B`` holds after every admission, so that exactly ``total_steps * B`` groups
are trained and none is left over. So does ``|dispatched| - |dropped| - |waiting| <= (eta + version + 1) * B``: groups
of sources that wait for a verifier keep no others from being trained. What is settled comes from the learner's durable
ledger, in which it is one interval and a few more; of what is dropped, only the numbers that are not settled are kept.
So the state depends on what is in flight, and it comes back from ledger and log in any order, with repeats.
"""

from dataclasses import dataclass

from tristream.wire.events import Ledger, PolicyVersion, Progress
from tristream.wire.ledger import IntervalSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A prompt to dispatch."""

    number: int
    progress: Progress


class Admission:
    """Admits prompt numbers within the staleness bound.

    Example:
        >>> from tristream.wire.events import Weights
        >>> admission = Admission(total_steps=2, groups_per_step=1, max_staleness=0)
        >>> weights = Weights(version=0, uri="weights/0", sha256="0")
        >>> admission.observe_policy(
        ...     PolicyVersion(run="demo", weights=weights, total_steps=2, durable=Ledger(step=0), created_ns=1)
        ... )
        >>> admission.admit(), admission.admit()
        (Admitted(number=0, progress=Progress(step=1, total_steps=2)), None)
    """

    def __init__(self, *, total_steps: int, groups_per_step: int, max_staleness: int) -> None:
        self._total_steps = total_steps
        self._groups_per_step = groups_per_step
        self._max_staleness = max_staleness
        self._dispatched = IntervalSet()
        self._settled = IntervalSet()
        self._ledger = Ledger(step=-1)
        self._dropped = IntervalSet()
        """Dropped numbers that are not settled; those that are, the ledger counts."""
        self._version: int | None = None
        self._num_waiting = 0

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
        return self._ledger.num_dropped + len(self._dropped)

    @property
    def bound(self) -> int:
        """Most groups that may be dispatched and not dropped at this version."""
        if self._version is None:
            return 0
        bound = (self._max_staleness + self._version + 1) * self._groups_per_step + self._num_waiting
        return min(bound, self._total_steps * self._groups_per_step)

    @property
    def first_never_dispatched(self) -> int:
        """The smallest number such that neither it nor any greater one was dispatched."""
        return max((interval.end for interval in self._dispatched.intervals), default=0)

    def is_settled(self, number: int) -> bool:
        """Whether the durable ledger has the number."""
        return number in self._settled

    def observe_policy(self, policy: PolicyVersion) -> None:
        """The learner announced a version, after going back an earlier one, and what is durable."""
        self._version = policy.weights.version
        if policy.durable.step <= self._ledger.step:
            return
        self._ledger = policy.durable
        self._settled = IntervalSet(policy.durable.settled)
        self._dispatched = IntervalSet((*self._dispatched.intervals, *self._settled.intervals))
        self._dropped = IntervalSet.of(number for number in self._dropped if number not in self._settled)

    def observe_waiting(self, num_groups: int) -> None:
        """So many dispatched groups wait for a verifier that no worker serves; they take no place of others."""
        self._num_waiting = num_groups

    def observe_dispatched(self, number: int) -> None:
        """A prompt is on the log."""
        self._dispatched.add(number)

    def observe_dropped(self, number: int) -> None:
        """A group was dropped; another will be dispatched in its place. Of a settled group it is no news."""
        if number not in self._settled:
            self._dispatched.add(number)
            self._dropped.add(number)

    def next_number(self) -> int | None:
        """The number to dispatch next, the smallest first, or None while the bound holds it back."""
        if self.num_dispatched - self.num_dropped >= self.bound:
            return None
        return self._dispatched.first_missing()

    def admit(self) -> Admitted | None:
        """Take the next number, or None while the bound holds it back."""
        number = self.next_number()
        if number is None:
            return None
        num_in_play = self.num_dispatched - self.num_dropped
        self._dispatched.add(number)
        num_before = max(0, num_in_play - self._num_waiting)
        step = min(self._total_steps, num_before // self._groups_per_step + 1)
        return Admitted(number=number, progress=Progress(step=step, total_steps=self._total_steps))
