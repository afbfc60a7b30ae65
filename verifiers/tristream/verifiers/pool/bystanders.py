"""Children of a lane that have lost their slot to another: they run beside the slots, or stand aside, stopped.

A task that goes on for long runs beside the slots at first, is stopped after ``STOP_CPU_SECONDS`` if others want to
run, and goes on when there is room: until it has had ``SLOW_CPU_SECONDS``, and the next time to its end. What has used
least goes on first, so that what is merely slow does not wait for what hangs.
"""

import math

from tristream.verifiers.pool.children import Child, Place
from tristream.verifiers.pool.nursery import Nursery

MAX_CHILDREN_ASIDE = 32
STOP_CPU_SECONDS = 0.05
SLOW_CPU_SECONDS = 0.2


class Bystanders:
    """Children without a slot that have a task."""

    def __init__(self, nursery: Nursery) -> None:
        self._nursery = nursery
        self.beside: list[Child] = []
        """They run."""
        self.aside: list[Child] = []
        """They are stopped."""

    @property
    def is_full(self) -> bool:
        """Whether no more can come."""
        return len(self.aside) + len(self.beside) >= 2 * MAX_CHILDREN_ASIDE

    @property
    def num_resumed(self) -> int:
        """Children that were stopped and run again."""
        return sum(child.has_been_stopped for child in self.beside)

    def add(self, child: Child) -> None:
        """Let a child that had a slot run beside the slots."""
        child.place, child.slice_cpu_seconds = Place.BESIDE, STOP_CPU_SECONDS
        self.beside.append(child)

    def remove(self, child: Child) -> None:
        """Forget a child."""
        (self.aside if child.place is Place.ASIDE else self.beside).remove(child)

    def stop(self, child: Child, num_slots: int, now_seconds: float) -> None:
        """Stop a child that runs; if too many stand aside, another goes on."""
        if len(self.aside) >= MAX_CHILDREN_ASIDE and self.num_resumed - child.has_been_stopped < num_slots:
            self.resume_one(now_seconds)
        self._nursery.stop(child)
        child.place, child.has_been_stopped, child.stopped_seconds = Place.ASIDE, True, now_seconds
        self.beside.remove(child)
        self.aside.append(child)

    def resume_one(self, now_seconds: float) -> None:
        """Let the child that has used least go on."""
        child = min(self.aside, key=Child.task_cpu_seconds)
        self.aside.remove(child)
        child.started_seconds += now_seconds - child.stopped_seconds
        child.place, child.check_seconds = Place.BESIDE, now_seconds
        child.slice_cpu_seconds = SLOW_CPU_SECONDS if child.task_cpu_seconds() < SLOW_CPU_SECONDS else math.inf
        self.beside.append(child)
        self._nursery.resume(child)
