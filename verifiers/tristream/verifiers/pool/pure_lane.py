"""The lane of verifiers that compute: a few slots, each with a child that judges one task after the other.

A task that takes long while others wait gives its slot to a spare child, and runs beside it (``bystanders``): its
child, which has learned more than a new one, is the next spare. If it goes on and on, its child is stopped and stands
aside until nobody waits, or too many stand aside. Its deadlines are in CPU time, so it comes to the same end whenever
that is. What waits for something without computing gives its slot up later, and is not stopped.

Rollouts of a group go to the same slot, so that its child parses their truth once; a slot without work takes some
from the longest queue.
"""

import math
from collections import deque
from collections.abc import Mapping

from tristream.verifiers.pool.bystanders import Bystanders
from tristream.verifiers.pool.channel import NonsenseError
from tristream.verifiers.pool.children import Child, Pending, Place
from tristream.verifiers.pool.lane import TASKS_PER_CHILD, Lane, resolve
from tristream.verifiers.pool.lane_spec import LaneSpec
from tristream.verifiers.pool.messages import FACTS_NUMBER
from tristream.verifiers.pool.nursery import Nursery
from tristream.verifiers.pool.patience import Patience
from tristream.verifiers.pool.tasks import Verdict, VerifierFacts
from tristream.wire.events import Status

TASKS_PER_MESSAGE = 16
TASKS_TO_REFILL = 8
"""A child that has so few tasks left is given more, so that it never waits for its parent."""
MAX_CHILDREN_ASIDE = 32
MAX_SPARES = 2
STRAY_SECONDS = 0.1
"""A child that takes longer to be through with strays is not kept."""
MIN_CHECK_SECONDS = 0.005


class PureLane(Lane):
    """A lane with ``num_slots`` children at work."""

    def __init__(self, spec: LaneSpec, facts: Mapping[str, VerifierFacts], nursery: Nursery, *, num_slots: int) -> None:
        super().__init__(spec, facts, nursery)
        self._num_slots = num_slots
        self._slots: list[Child] = []
        self._waiting: list[deque[Pending]] = [deque() for _ in range(num_slots)]
        self._bystanders = Bystanders(nursery)
        self._spares: list[Child] = []
        self._patience = Patience()

    def start(self) -> None:
        """Have the children forked."""
        self._slots = [self._nursery.spawn(self, self._spec, slot) for slot in range(self._num_slots)]
        self._have_spare()

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
        elif self._bystanders.aside:
            self._resume_while_idle(now_seconds)

    def check(self, now_seconds: float) -> float:
        """Look at deadlines; when to look again, by the monotonic clock."""
        next_seconds = math.inf
        for child in [*self._slots, *self._bystanders.beside, *self._spares]:
            if not child.is_ready:
                next_seconds = min(next_seconds, self._check_start(child, now_seconds))
            elif child.assigned or child.strays:
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
                if number in child.strays:
                    child.strays.remove(number)
                    continue
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
        elif num_judged or not (child.assigned or child.strays):
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
        children = [*self._slots, *self._bystanders.aside, *self._bystanders.beside]  # a spare child has no tasks
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
        self._patience.learn(pending.task.verifier, verdict.cpu_seconds)
        resolve(pending, verdict)
        return verdict

    def _go_on(self, child: Child, now_seconds: float) -> None:
        """A child has judged what it was at."""
        if child.assigned:
            child.begin(now_seconds)
            child.check_seconds = now_seconds + self._patience.min_seconds
        elif child.num_tasks >= TASKS_PER_CHILD or child.has_been_stopped:
            self._replace(child, is_restart=False)
        elif child.place is Place.BESIDE:
            self._rejoin(child, now_seconds)

    def _rejoin(self, child: Child, now_seconds: float) -> None:
        """A child beside the slots has judged its task: it is the next spare, once it is through with strays."""
        if len(self._spares) >= MAX_SPARES:
            self._replace(child, is_restart=False)
        elif child.strays:
            child.check_seconds = now_seconds + STRAY_SECONDS
        else:
            self._bystanders.remove(child)
            child.place = Place.SPARE
            self._spares.append(child)

    def _check(self, child: Child, now_seconds: float) -> None:
        """Hold the task that a child is at to its deadlines, and let it step aside for others."""
        if not child.assigned:  # strays take it too long
            self._replace(child, is_restart=False)
            return
        pending = child.assigned[0]
        limits = self._facts[pending.task.verifier].limits
        cpu_seconds = child.task_cpu_seconds()
        wall_seconds = now_seconds - child.started_seconds
        # One that stood aside runs at low priority: it is given the time that its CPU time may take then.
        max_wall_seconds = limits.wall_seconds + (20 * limits.cpu_seconds if child.has_been_stopped else 0.0)
        if cpu_seconds >= limits.cpu_seconds:
            self._time_out(child, f"no score after {limits.cpu_seconds:g} s of CPU time", cpu_seconds, wall_seconds)
            return
        if wall_seconds >= max_wall_seconds:
            self._time_out(child, f"no score after {wall_seconds:.0f} s", cpu_seconds, wall_seconds)
            return
        left_seconds = min(limits.cpu_seconds - cpu_seconds, max_wall_seconds - wall_seconds)
        if child.place is Place.BESIDE and cpu_seconds >= child.slice_cpu_seconds and self._is_wanted():
            self._bystanders.stop(child, self._num_slots, now_seconds)
        elif child.place is Place.SLOT and (len(child.assigned) > 1 or any(self._waiting)):
            patience_seconds = self._patience.cpu_seconds(child, pending.task.verifier)
            if cpu_seconds >= patience_seconds or self._patience.is_waiting(cpu_seconds, wall_seconds):
                self._step_beside(child)
            left_seconds = min(left_seconds, max(patience_seconds - cpu_seconds, self._patience.min_seconds))
        if child.place is Place.BESIDE and self._is_wanted():
            left_seconds = min(left_seconds, child.slice_cpu_seconds - cpu_seconds)
        child.check_seconds = now_seconds + max(MIN_CHECK_SECONDS, left_seconds)

    def _is_wanted(self) -> bool:
        """Whether CPU time that a child beside the slots takes is taken from others."""
        return (
            bool(self._bystanders.aside) or any(self._waiting) or any(len(child.assigned) > 1 for child in self._slots)
        )

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

    def _step_beside(self, child: Child) -> None:
        """Give the slot of a child to another; it goes on."""
        if not self._bystanders.is_full:
            self._bystanders.add(child)
            self._requeue(child, keep=1)
            self._fill_slot(child.slot)

    def _fill_slot(self, slot: int) -> None:
        """Give a slot to the spare child, or to a new one if that is not ready yet."""
        child = self._spares.pop() if self._spares else self._nursery.spawn(self, self._spec, slot)
        child.place, child.slot = Place.SLOT, slot
        self._slots[slot] = child
        self._have_spare()

    def _have_spare(self) -> None:
        """Have a child forked that is ready when a slot needs one: whatever waits does not wait for that."""
        if self._spares:
            return
        spare = self._nursery.spawn(self, self._spec)
        spare.place = Place.SPARE
        self._spares.append(spare)

    def _resume_while_idle(self, now_seconds: float) -> None:
        num_busy = sum(bool(child.assigned) for child in self._slots) + self._bystanders.num_resumed
        while self._bystanders.aside and num_busy < self._num_slots:
            self._bystanders.resume_one(now_seconds)
            num_busy += 1

    def _replace(self, child: Child, *, is_restart: bool) -> None:
        """End a child; its slot, if it has one, is given to a new one, and its tasks go back to the queue."""
        self.num_restarts += is_restart
        self._nursery.kill(child)
        self._requeue(child)
        if child.place is Place.SLOT:
            self._fill_slot(child.slot)
        elif child.place is Place.SPARE:
            self._spares.remove(child)
            self._have_spare()
        else:
            self._bystanders.remove(child)

    def _requeue(self, child: Child, keep: int = 0) -> None:
        """Put the tasks of a child back at the head of the queue, but for the first few."""
        while len(child.assigned) > keep:
            pending = child.assigned.pop()
            child.strays.add(pending.number)
            self._waiting[child.slot].appendleft(pending)
