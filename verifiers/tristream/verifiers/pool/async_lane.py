"""The lane of async verifiers: one child, many calls at once, verdicts in any order."""

import math
from collections import deque
from collections.abc import Mapping

from tristream.verifiers.pool.channel import NonsenseError
from tristream.verifiers.pool.children import Child, Pending
from tristream.verifiers.pool.lane import TASKS_PER_CHILD, Lane, resolve
from tristream.verifiers.pool.lane_spec import LaneSpec
from tristream.verifiers.pool.messages import FACTS_NUMBER
from tristream.verifiers.pool.nursery import Nursery
from tristream.verifiers.pool.tasks import Verdict, VerifierFacts
from tristream.wire.events import Status

MAX_CALLS = 64
CHECK_SECONDS = 0.1
GRACE_SECONDS = 2.0
"""The child itself ends calls at their limit; if it is so late, it does nothing any more."""


class AsyncLane(Lane):
    """A lane with one child."""

    def __init__(self, spec: LaneSpec, facts: Mapping[str, VerifierFacts], nursery: Nursery) -> None:
        super().__init__(spec, facts, nursery)
        self._child: Child | None = None
        self._waiting: deque[Pending] = deque()
        self._calls: dict[int, Pending] = {}
        self._running_number = 0
        """The call whose own code runs, as it was last seen."""
        self._running_since_seconds = 0.0
        self._check_at_seconds = 0.0

    def start(self) -> None:
        """Have the child forked."""
        self._child = self._nursery.spawn(self, self._spec)

    @property
    def is_ready(self) -> bool:
        """Whether the child is there."""
        return self._child is not None and self._child.is_ready

    def add(self, pending: Pending) -> None:
        """Take a task; ``work`` gives it to a child."""
        self._waiting.append(pending)

    def work(self, now_seconds: float) -> None:
        """Give tasks to children that are free."""
        child = self._child
        if child is None or not child.is_ready or child.num_tasks >= TASKS_PER_CHILD:
            return
        while self._waiting and len(self._calls) < MAX_CALLS:
            pending = self._waiting.popleft()
            frame = self._pack(pending)
            if frame is not None:
                pending.started_seconds = now_seconds
                self._calls[pending.number] = pending
                child.num_tasks += 1
                self._nursery.send(child, frame)

    def check(self, now_seconds: float) -> float:
        """Look at deadlines; when to look again, by the monotonic clock."""
        if self._child is None:
            return math.inf
        if not self._child.is_ready:
            return self._check_start(self._child, now_seconds)
        if not self._calls:
            return math.inf
        if now_seconds >= self._check_at_seconds:
            self._check_at_seconds = now_seconds + CHECK_SECONDS
            self._check_calls(self._child, now_seconds)
        return self._check_at_seconds

    def receive(self, child: Child, now_seconds: float) -> None:
        """Read what a child says; EOFError if it hung up."""
        num_rollouts = max((len(pending.task.rollouts) for pending in self._calls.values()), default=1)
        try:
            for number, content in child.channel.receive(self._max_frame_bytes(num_rollouts)):
                if number == FACTS_NUMBER and not child.is_ready:
                    self._greet(child, content)
                    continue
                pending = self._calls.get(number)
                if pending is None:
                    raise NonsenseError("it judged what it was not asked")
                verdict = self._read(pending, number, content)
                del self._calls[number]
                resolve(pending, verdict)
        except NonsenseError as error:
            self._drop_calls(str(error))
            self._replace(child, is_restart=True)
            return
        if child.num_tasks >= TASKS_PER_CHILD and not self._calls:
            self._replace(child, is_restart=False)

    def ended(self, child: Child, status: int) -> None:
        """Replace a child that ended by itself."""
        if not child.is_ready:
            self._count_failed_start(status)
        running, is_truth_fine = child.progress.read()
        guilty = self._calls.pop(running, None)
        if guilty is not None:
            resolve(guilty, self._verdict_of_end(guilty, status, is_truth_fine=is_truth_fine))
            self._requeue()
        else:
            self._drop_calls("nobody knows why")
        self._replace(child, is_restart=True)

    def pending(self) -> list[Pending]:
        """All tasks without a verdict."""
        return [*self._calls.values(), *self._waiting]

    def _check_calls(self, child: Child, now_seconds: float) -> None:
        """Find a call that blocks all others, and calls that the child should have ended."""
        running, _ = child.progress.read()
        if running != self._running_number or running not in self._calls:
            self._running_number, self._running_since_seconds = running, now_seconds
            child.begin(now_seconds)
        else:
            self._check_running(child, self._calls[running], now_seconds)
        late = [pending for pending in self._calls.values() if now_seconds >= self._latest_seconds(pending)]
        if late:
            for pending in late:
                limit_seconds = self._facts[pending.task.verifier].limits.wall_seconds
                self._time_out(child, pending, f"no score after {limit_seconds:g} s", now_seconds)
            self._requeue()
            self._replace(child, is_restart=True)

    def _check_running(self, child: Child, pending: Pending, now_seconds: float) -> None:
        """Hold a call to its limits while it keeps the others from running."""
        limits = self._facts[pending.task.verifier].limits
        if child.task_cpu_seconds() >= limits.cpu_seconds:
            detail = f"no score after {limits.cpu_seconds:g} s of CPU time in which no other call could run"
        elif now_seconds - self._running_since_seconds >= limits.wall_seconds:
            detail = f"no score after {limits.wall_seconds:g} s in which no other call could run"
        else:
            return
        self._time_out(child, pending, detail, now_seconds)
        self._requeue()
        self._replace(child, is_restart=True)

    def _latest_seconds(self, pending: Pending) -> float:
        return pending.started_seconds + self._facts[pending.task.verifier].limits.wall_seconds + GRACE_SECONDS

    def _time_out(self, child: Child, pending: Pending, detail: str, now_seconds: float) -> None:
        verdict = Verdict(
            status=Status.TIMEOUT,
            detail=detail,
            is_truth_fine=child.is_truth_fine(pending.number),
            wall_seconds=now_seconds - pending.started_seconds,
        )
        del self._calls[pending.number]
        resolve(pending, verdict)

    def _drop_calls(self, what: str) -> None:
        """Try calls again whose child is gone, unless that has happened to them too often."""
        for number, pending in list(self._calls.items()):
            if not self._survives(pending, what):
                del self._calls[number]
        self._requeue()

    def _requeue(self) -> None:
        self._waiting.extendleft(reversed(self._calls.values()))
        self._calls.clear()

    def _replace(self, child: Child, *, is_restart: bool) -> None:
        self.num_restarts += is_restart
        self._nursery.kill(child)
        self._child = self._nursery.spawn(self, self._spec)
