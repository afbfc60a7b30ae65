"""What the lanes of a pool have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from tristream.verifiers.definition import Need
from tristream.verifiers.pool.channel import MAX_FRAME_BYTES, NonsenseError
from tristream.verifiers.pool.child import OUT_OF_MEMORY_EXIT_CODE
from tristream.verifiers.pool.children import Child, Pending
from tristream.verifiers.pool.fork_client import START_SECONDS
from tristream.verifiers.pool.lane_spec import LaneSpec
from tristream.verifiers.pool.messages import FACTS_NUMBER, pack_task
from tristream.verifiers.pool.nursery import Nursery
from tristream.verifiers.pool.tasks import PoolError, Verdict, VerifierFacts
from tristream.verifiers.pool.texts import describe_end, describe_error
from tristream.verifiers.pool.verdicts import read_refusal, read_verdict
from tristream.wire.events import Status

TASKS_PER_CHILD = 10_000
"""A child is replaced after this many tasks, so that a leak stays small."""
MAX_ATTEMPTS = 3
"""A task that so many children died with is an error, even if nobody knows whose doing it was."""
MAX_FAILED_STARTS = 3


class Lane(ABC):
    """Children that serve the same verifiers, and the tasks for them; used by one thread."""

    def __init__(self, spec: LaneSpec, facts: Mapping[str, VerifierFacts], nursery: Nursery) -> None:
        self._spec = spec
        self._facts = {name: facts[name] for name in spec.entry_points}
        self._nursery = nursery
        self._with_images = Need.IMAGES in spec.needs
        self._num_failed_starts = 0
        self.num_restarts = 0
        """Children replaced after a kill or a crash."""

    @abstractmethod
    def start(self) -> None:
        """Have the children forked."""

    @property
    @abstractmethod
    def is_ready(self) -> bool:
        """Whether all children are there."""

    @abstractmethod
    def add(self, pending: Pending) -> None:
        """Take a task; it is given to a child by ``work``."""

    @abstractmethod
    def work(self, now_seconds: float) -> None:
        """Give tasks to children that are free."""

    @abstractmethod
    def check(self, now_seconds: float) -> float:
        """Look at deadlines; when to look again, by the monotonic clock."""

    @abstractmethod
    def receive(self, child: Child, now_seconds: float) -> None:
        """Read what a child says.

        Raises:
            EOFError: it hung up.
        """

    @abstractmethod
    def ended(self, child: Child, status: int) -> None:
        """Replace a child that ended by itself."""

    @abstractmethod
    def pending(self) -> list[Pending]:
        """All tasks without a verdict."""

    def _max_frame_bytes(self, child_tasks: int) -> int:
        return MAX_FRAME_BYTES * max(1, child_tasks)

    def _greet(self, child: Child, content: bytes) -> None:
        """Hear a child's first frame.

        Raises:
            PoolError: it cannot load its verifiers.
        """
        refusal = read_refusal(content)
        if refusal:
            raise PoolError(f"a child process cannot load its verifiers: {'; '.join(refusal.values())}")
        child.is_ready = True
        child.start_cpu_seconds, child.start_bytes = child.read_cpu_seconds(), child.read_held_bytes()
        self._num_failed_starts = 0

    def _check_start(self, child: Child, now_seconds: float) -> float:
        """When a child that is not ready has to be; raises PoolError if that has passed."""
        until_seconds = child.spawned_seconds + START_SECONDS
        if now_seconds > until_seconds:
            raise PoolError(f"a child process is not ready after {START_SECONDS:.0f} s")
        return until_seconds

    def _count_failed_start(self, status: int) -> None:
        self._num_failed_starts += 1
        if self._num_failed_starts >= MAX_FAILED_STARTS:
            raise PoolError(f"child processes die before they are ready: {describe_end(status)}")

    def _pack(self, pending: Pending) -> bytes | None:
        """A task as a frame; None if it has got its verdict, as it cannot be sent."""
        try:
            return pack_task(pending.number, pending.task, with_images=self._with_images)
        except (TypeError, ValueError, RecursionError) as error:
            resolve(pending, Verdict(status=Status.ERROR, detail=f"the rollout is no JSON: {describe_error(error)}"))
            return None

    def _read(self, pending: Pending, number: int, content: bytes) -> Verdict:
        if number == FACTS_NUMBER:
            raise NonsenseError("it told its facts twice")
        return read_verdict(content, self._facts[pending.task.verifier], len(pending.task.rollouts))

    def _verdict_of_end(self, pending: Pending, status: int, *, is_truth_fine: bool) -> Verdict:
        """What becomes of a task whose process died of it."""
        if status == OUT_OF_MEMORY_EXIT_CODE:
            memory_mib = self._facts[pending.task.verifier].limits.memory_mib
            return Verdict(
                status=Status.TIMEOUT, detail=f"no score within {memory_mib} MiB", is_truth_fine=is_truth_fine
            )
        return Verdict(
            status=Status.ERROR, detail=f"the process died: {describe_end(status)}", is_truth_fine=is_truth_fine
        )

    def _survives(self, pending: Pending, what: str) -> bool:
        """Whether a task is tried again after its child died of something unknown; else it is an error."""
        pending.num_attempts += 1
        if pending.num_attempts < MAX_ATTEMPTS:
            return True
        resolve(pending, Verdict(status=Status.ERROR, detail=f"{MAX_ATTEMPTS} processes died with it: {what}"))
        return False


def resolve(pending: Pending, verdict: Verdict) -> None:
    """Give a task its verdict."""
    pending.future.set_result(verdict)
