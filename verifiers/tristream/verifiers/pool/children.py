"""A child as its parent sees it, and the tasks that it has."""

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from tristream.verifiers.pool.channel import Channel
from tristream.verifiers.pool.cpu_clock import process_cpu_seconds
from tristream.verifiers.pool.limits import num_mapped_bytes
from tristream.verifiers.pool.progress import Progress
from tristream.verifiers.pool.tasks import Task, Verdict


@dataclass(slots=True)
class Pending:
    """A task that has no verdict yet."""

    number: int
    task: Task
    future: "Future[Verdict]"
    num_attempts: int = 0
    """How often a child died that had it, without it being known whose doing that was."""
    started_seconds: float = 0.0
    """When an async child was given it, by the monotonic clock."""


class Place(Enum):
    """Where a child runs its task."""

    SLOT = "slot"
    """It has one of its lane's slots."""
    ASIDE = "aside"
    """It is stopped, and another child has its slot."""
    BESIDE = "beside"
    """It runs, and another child has its slot."""


class ChildOwner(Protocol):
    """Who is told about a child."""

    def receive(self, child: "Child", now_seconds: float) -> None:
        """There is something to read from it."""
        ...

    def ended(self, child: "Child", status: int) -> None:
        """It has ended by itself; ``status`` as ``os.waitstatus_to_exitcode`` has it."""
        ...


@dataclass(slots=True, eq=False)
class Child:
    """One process; times are seconds of the monotonic clock."""

    number: int
    owner: ChildOwner
    slot: int
    channel: Channel
    progress: Progress
    spawned_seconds: float
    pid: int = 0
    """0 until it is forked."""
    is_ready: bool = False
    start_cpu_seconds: float = 0.0
    """CPU time that it took to be ready."""
    start_bytes: int = 0
    """Memory that it had mapped when it was ready."""
    held_bytes: int = 0
    """Memory that it had mapped beyond that when it was stopped."""
    num_tasks: int = 0
    assigned: deque[Pending] = field(default_factory=deque)
    """Tasks that it was given; it is at the first one."""
    place: Place = Place.SLOT
    started_seconds: float = 0.0
    """When it came to the task that it is at, moved by the time that it was stopped."""
    cpu_seconds_before: float = 0.0
    """Its CPU time when it came to the task that it is at."""
    stopped_seconds: float = 0.0
    has_been_stopped: bool = False
    check_seconds: float = 0.0
    """When its deadlines are to be looked at again."""

    def read_cpu_seconds(self) -> float:
        """CPU time that it has used; 0 if it cannot be known."""
        try:
            return process_cpu_seconds(self.pid) if self.pid else 0.0
        except OSError:  # it has just ended
            return 0.0

    def read_held_bytes(self) -> int:
        """Memory that it has mapped since it was ready; 0 if it cannot be known."""
        try:
            return max(0, num_mapped_bytes(self.pid) - self.start_bytes) if self.pid else 0
        except (OSError, IndexError):  # it has just ended
            return 0

    def begin(self, now_seconds: float) -> None:
        """It comes to the first of its tasks."""
        self.started_seconds = now_seconds
        self.cpu_seconds_before = self.read_cpu_seconds()
        self.check_seconds = now_seconds

    def task_cpu_seconds(self) -> float:
        """CPU time that it has used for the task that it is at."""
        return max(0.0, self.read_cpu_seconds() - self.cpu_seconds_before)

    def is_truth_fine(self, number: int) -> bool:
        """Whether it has parsed the truth of a task that it is at."""
        running, is_truth_fine = self.progress.read()
        return running == number and is_truth_fine
