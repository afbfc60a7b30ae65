"""The lane of verifiers that compute: a few slots, each with a child that judges one task after the other.

A task that takes long while others wait steps aside: its child is stopped and kept, and a new child has the slot. It
goes on when nobody waits, or when too many stand aside; its deadlines are in CPU time, so it comes to the same end
whenever that is. What waits for something without computing is not stopped, and gives its slot up later.

Rollouts of a group go to the same slot, so that its child parses their truth once; a slot without work takes some
from the longest queue.
"""

import math
from collections import deque
from collections.abc import Mapping

from tristream.verifiers.pool.channel import NonsenseError
from tristream.verifiers.pool.children import Child, Pending, Place
from tristream.verifiers.pool.lane import TASKS_PER_CHILD, Lane, resolve
from tristream.verifiers.pool.lane_spec import LaneSpec
from tristream.verifiers.pool.limits import MIB
from tristream.verifiers.pool.messages import FACTS_NUMBER
from tristream.verifiers.pool.nursery import Nursery
from tristream.verifiers.pool.patience import Patience
from tristream.verifiers.pool.tasks import Verdict, VerifierFacts
from tristream.wire.events import Status

TASKS_PER_MESSAGE = 16
TASKS_TO_REFILL = 8
"""A child that has so few tasks left is given more, so that it never waits for its parent."""
MAX_CHILDREN_ASIDE = 32
SLOWED_TIMES = 40.0
"""A task at low priority may take so much longer than its CPU time."""
MIN_CHECK_SECONDS = 0.005


class PureLane(Lane):
    """A lane with ``num_slots`` children at work."""

    def __init__(self, spec: LaneSpec, facts: Mapping[str, VerifierFacts], nursery: Nursery, *, num_slots: int) -> None:
        super().__init__(spec, facts, nursery)
        self._num_slots = num_slots
        self._max_bytes_aside = num_slots * MIB * max(known.limits.memory_mib for known in self._facts.values())
        self._slots: list[Child] = []
        self._waiting: list[deque[Pending]] = [deque() for _ in range(num_slots)]
        self._aside: deque[Child] = deque()
        self._beside: list[Child] = []
        self._patience = Patience()

    def start(self) -> None:
        """Have the children forked."""
        self._slots = [self._nursery.spawn(self, self._spec, slot) for slot in range(self._num_slots)]

    @property
    def is_ready(self) -> bool:
        """Whether all children are there."""
        return all(child.is_ready for child in self._slots)

    def add(self, pending: Pending) -> None:
        """Take a task; ``work`` gives it to a child."""
        rollout = pending.task.rollouts[0]
        self._waiting[hash((rollout.sample_id, rollout.ground_truth)) % self._num_slots].append(pending)

    def work(self, now_seconds: float) -> None:
        """Give tasks to children that are free."""
        if any(self._waiting):
            for child in self._slots:
                self._feed(child, now_seconds)
        if any(self._waiting):
            for child in list(self._slots):
                if child.assigned and now_seconds >= child.started_seconds + self._patience.min_seconds:
                    self._check(child, now_seconds)
        elif self._aside:
            self._resume_while_idle(now_seconds)

    def check(self, now_seconds: float) -> float:
        """Look at deadlines; when to look again, by the monotonic clock."""
        next_seconds = math.inf
        for child in [*self._slots, *self._beside]:
            if not child.is_ready:
                next_seconds = min(next_seconds, self._check_start(child, now_seconds))
            elif child.assigned:
                if now_seconds >= child.check_seconds:
                    self._check(child, now_seconds)
                next_seconds = min(next_seconds, child.check_seconds)
        return next_seconds

    def receive(self, child: Child, now_seconds: float) -> None:
        """Read what a child says; EOFError if it hung up."""
        num_rollouts = len(child.assigned[0].task.rollouts) if child.assigned else 1
        num_judged, is_spent = 0, False
        try:
            for number, content in child.channel.receive(self._max_frame_bytes(num_rollouts)):
                if number == FACTS_NUMBER and not child.is_ready:
                    self._greet(child, content)
                    continue
                if child.place is not Place.SLOT and not child.assigned:
                    break  # it had gone on before it was stopped, to a task that another child has
                verdict = self._take_verdict(child, number, content)
                is_spent = is_spent or verdict.status is Status.TIMEOUT  # its memory: some of it may be lost
                num_judged += 1
        except NonsenseError as error:
            if child.assigned:
                resolve(child.assigned.popleft(), Verdict(status=Status.ERROR, detail=str(error)))
            self._replace(child, is_restart=True)
            return
        if is_spent:
            self._replace(child, is_restart=True)
        elif num_judged:
            self._go_on(child, now_seconds)

    def ended(self, child: Child, status: int) -> None:
        """Replace a child that ended by itself."""
        if not child.is_ready:
            self._count_failed_start(status)
        running, is_truth_fine = child.progress.read()
        if child.assigned and running == child.assigned[0].number:
            pending = child.assigned.popleft()
            resolve(pending, self._verdict_of_end(pending, status, is_truth_fine=is_truth_fine))
        elif child.assigned and not self._survives(child.assigned[0], "nobody knows why"):
            child.assigned.popleft()
        self._replace(child, is_restart=True)

    def pending(self) -> list[Pending]:
        """All tasks without a verdict."""
        children = [*self._slots, *self._aside, *self._beside]
        given = [pending for child in children for pending in child.assigned]
        return given + [pending for queue in self._waiting for pending in queue]

    def _feed(self, child: Child, now_seconds: float) -> None:
        """Give a child its next few tasks, if it has room for them."""
        num_assigned = len(child.assigned)
        if not child.is_ready or num_assigned > TASKS_TO_REFILL or child.num_tasks >= TASKS_PER_CHILD:
            return
        frames = []
        for pending in self._take(child.slot, TASKS_PER_MESSAGE - num_assigned, is_idle=not num_assigned):
            frame = self._pack(pending)
            if frame is not None:
                frames.append(frame)
                child.assigned.append(pending)
        if not frames:
            return
        child.num_tasks += len(frames)
        if not num_assigned:
            child.begin(now_seconds)
            child.check_seconds = now_seconds + self._patience.min_seconds
        self._nursery.send(child, b"".join(frames))

    def _take(self, slot: int, room: int, *, is_idle: bool) -> list[Pending]:
        """The next tasks for a slot, its share at most; what is meant for another slot, only if it is idle."""
        own = self._waiting[slot]
        if own:
            share = math.ceil(sum(map(len, self._waiting)) / self._num_slots)
            return [own.popleft() for _ in range(min(room, share, len(own)))]
        if not is_idle:
            return []
        longest = max(self._waiting, key=len)
        taken = [longest.pop() for _ in range(min(room, math.ceil(len(longest) / 2)))]
        return taken[::-1]

    def _take_verdict(self, child: Child, number: int, content: bytes) -> Verdict:
        if not child.assigned or number != child.assigned[0].number:
            raise NonsenseError("it judged what it was not asked")
        pending = child.assigned[0]
        verdict = self._read(pending, number, content)
        child.assigned.popleft()
        self._patience.learn(pending.task.verifier, verdict)
        resolve(pending, verdict)
        return verdict

    def _go_on(self, child: Child, now_seconds: float) -> None:
        """A child has judged what it was at."""
        if child.place is not Place.SLOT or (child.num_tasks >= TASKS_PER_CHILD and not child.assigned):
            self._replace(child, is_restart=False)
        elif child.assigned:
            child.begin(now_seconds)
            child.check_seconds = now_seconds + self._patience.min_seconds

    def _check(self, child: Child, now_seconds: float) -> None:
        """Hold the task that a child is at to its deadlines, and let it step aside for others."""
        pending = child.assigned[0]
        limits = self._facts[pending.task.verifier].limits
        cpu_seconds = child.task_cpu_seconds()
        wall_seconds = now_seconds - child.started_seconds
        slowed_seconds = SLOWED_TIMES * limits.cpu_seconds if child.has_been_stopped else 0.0
        max_wall_seconds = limits.wall_seconds + slowed_seconds
        if cpu_seconds >= limits.cpu_seconds:
            self._time_out(child, f"no score after {limits.cpu_seconds:g} s of CPU time", cpu_seconds, wall_seconds)
            return
        if wall_seconds >= max_wall_seconds:
            self._time_out(child, f"no score after {wall_seconds:.0f} s", cpu_seconds, wall_seconds)
            return
        left_seconds = min(limits.cpu_seconds - cpu_seconds, max_wall_seconds - wall_seconds)
        if child.place is Place.SLOT and (len(child.assigned) > 1 or any(self._waiting)):
            patience_seconds = self._patience.cpu_seconds(
                pending.task.verifier, num_tasks=child.num_tasks, start_cpu_seconds=child.start_cpu_seconds
            )
            if cpu_seconds >= patience_seconds:
                self._step_aside(child, now_seconds)
            elif self._patience.is_waiting(cpu_seconds, wall_seconds):
                self._step_beside(child)
            left_seconds = min(left_seconds, max(patience_seconds - cpu_seconds, self._patience.min_seconds))
        child.check_seconds = now_seconds + max(MIN_CHECK_SECONDS, left_seconds)

    def _time_out(self, child: Child, detail: str, cpu_seconds: float, wall_seconds: float) -> None:
        pending = child.assigned.popleft()
        verdict = Verdict(
            status=Status.TIMEOUT,
            detail=detail,
            is_truth_fine=child.is_truth_fine(pending.number),
            cpu_seconds=cpu_seconds,
            wall_seconds=wall_seconds,
        )
        self._replace(child, is_restart=True)
        resolve(pending, verdict)

    def _step_aside(self, child: Child, now_seconds: float) -> None:
        """Stop a child, and give its slot to another; if there is no room aside, the oldest goes on to make some."""
        child.held_bytes = child.read_held_bytes()
        if not self._has_room_aside(child) and self._aside and self._num_resumed() < self._num_slots:
            self._resume(self._aside.popleft(), now_seconds)
        if not self._has_room_aside(child):
            return
        self._nursery.stop(child)
        child.place, child.has_been_stopped, child.stopped_seconds = Place.ASIDE, True, now_seconds
        self._aside.append(child)
        self._give_slot_up(child)

    def _has_room_aside(self, child: Child) -> bool:
        """Whether one more may stand aside: what is stopped keeps its memory."""
        held_bytes = child.held_bytes + sum(other.held_bytes for other in self._aside)
        return len(self._aside) < MAX_CHILDREN_ASIDE and held_bytes <= self._max_bytes_aside

    def _step_beside(self, child: Child) -> None:
        """Give the slot of a child that waits for something to another; it goes on."""
        if len(self._beside) < MAX_CHILDREN_ASIDE:
            child.place = Place.BESIDE
            self._beside.append(child)
            self._give_slot_up(child)

    def _give_slot_up(self, child: Child) -> None:
        self._requeue(child, keep=1)
        self._slots[child.slot] = self._nursery.spawn(self, self._spec, child.slot)

    def _resume_while_idle(self, now_seconds: float) -> None:
        num_busy = sum(bool(child.assigned) for child in self._slots) + self._num_resumed()
        while self._aside and num_busy < self._num_slots:
            self._nursery.lower(self._aside[0])  # others come again
            self._resume(self._aside.popleft(), now_seconds)
            num_busy += 1

    def _resume(self, child: Child, now_seconds: float) -> None:
        child.started_seconds += now_seconds - child.stopped_seconds
        child.place, child.check_seconds = Place.BESIDE, now_seconds
        self._beside.append(child)
        self._nursery.resume(child)

    def _num_resumed(self) -> int:
        return sum(child.has_been_stopped for child in self._beside)

    def _replace(self, child: Child, *, is_restart: bool) -> None:
        """End a child; its slot, if it has one, is given to a new one, and its tasks go back to the queue."""
        self.num_restarts += is_restart
        self._nursery.kill(child)
        self._requeue(child)
        if child.place is Place.SLOT:
            self._slots[child.slot] = self._nursery.spawn(self, self._spec, child.slot)
        elif child.place is Place.ASIDE:
            self._aside.remove(child)
        else:
            self._beside.remove(child)

    def _requeue(self, child: Child, keep: int = 0) -> None:
        """Put the tasks of a child back at the head of the queue, but for the first few."""
        while len(child.assigned) > keep:
            self._waiting[child.slot].appendleft(child.assigned.pop())
