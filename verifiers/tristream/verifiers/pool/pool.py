"""A pool of child processes that judge: tasks in, exactly one verdict for each.

    submit -> inbox -> loop thread: lanes -> children
              futures <-------------------- verdicts

One thread has all of it: it gives tasks to children, reads their verdicts, and holds them to their deadlines. Verifiers
with the same needs share a lane of children; each plug-in has its own, so that it meddles with no other.
"""

import itertools
import logging
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from tristream.verifiers.pool.async_lane import AsyncLane
from tristream.verifiers.pool.children import Pending
from tristream.verifiers.pool.describing import describe, plan_lanes
from tristream.verifiers.pool.fork_client import ForkClient
from tristream.verifiers.pool.lane import Lane
from tristream.verifiers.pool.lane_spec import LaneSpec
from tristream.verifiers.pool.nursery import Nursery
from tristream.verifiers.pool.pure_lane import PureLane
from tristream.verifiers.pool.tasks import PoolError, Task, Verdict, VerifierFacts
from tristream.wire.verifiers import BUILT_IN_VERSIONS

LOG = logging.getLogger("tristream.verifier")

STOP_SECONDS = 10.0
TURN_SECONDS = 0.004
"""While children are busy, what they say is read in turns of this length: to wake up for each verdict costs more than
all else that is done with it. Children have tasks in hand for longer."""


class Pool:
    """Judges tasks in child processes.

    Args:
        served: entry points by ``NAME@VERSION``; empty for built-in verifiers and those of installed packages.
        num_processes: children that compute at the same time, for each lane.
        cpu_seconds: for one call, instead of what the verifier declares.
        wall_seconds: likewise.
        memory_mib: likewise.
    """

    def __init__(
        self,
        served: Mapping[str, str],
        *,
        num_processes: int,
        cpu_seconds: float | None = None,
        wall_seconds: float | None = None,
        memory_mib: int | None = None,
    ) -> None:
        built_ins = [name for name, entry_point in served.items() if _is_built_in(name, entry_point)]
        groups = [dict.fromkeys(built_ins, "")]
        groups += [{name: entry_point} for name, entry_point in served.items() if name not in built_ins]
        self._specs = [
            LaneSpec(entry_points=group, cpu_seconds=cpu_seconds, wall_seconds=wall_seconds, memory_mib=memory_mib)
            for group in groups
            if group
        ]
        self._built_ins = built_ins
        self._num_processes = num_processes
        self._facts: dict[str, VerifierFacts] = {}
        self._fork_client: ForkClient | None = None
        self._lanes: list[Lane] = []
        self._lane_of: dict[str, Lane] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._inbox: list[Pending] = []
        self._wake_descriptor = -1
        self._is_stopping = False
        self._failure: PoolError | None = None
        self._turn_seconds = self._next_seconds = 0.0
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verifier-pool", daemon=True)

    @property
    def facts(self) -> Mapping[str, VerifierFacts]:
        """What the verifiers declare, by ``NAME@VERSION``; known once the pool has started."""
        return self._facts

    @property
    def num_restarts(self) -> int:
        """Children replaced after a kill or a crash."""
        return sum(lane.num_restarts for lane in self._lanes)

    def start(self) -> None:
        """Start the children and wait until all are warm.

        Raises:
            UserError: a verifier cannot be loaded, or calls itself something else.
            PoolError: children cannot be started.
        """
        self._fork_client = ForkClient(self._built_ins)
        if self._fork_client.refused:
            LOG.warning("the kernel refuses to wall verifiers in: %s", "; ".join(self._fork_client.refused))
        self._facts = describe(self._fork_client, self._specs)
        nursery = Nursery(self._fork_client)
        self._wake_descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        nursery.watch(self._wake_descriptor)
        for spec in plan_lanes(self._specs, self._facts):
            lane = self._make_lane(spec, nursery)
            lane.start()
            self._lanes.append(lane)
            self._lane_of |= dict.fromkeys(spec.entry_points, lane)
        self._nursery = nursery
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def submit(self, tasks: Sequence[Task]) -> list["Future[Verdict]"]:
        """Queue tasks; each future gets a verdict, or PoolError if the pool ends first. Thread-safe.

        Raises:
            PoolError: the pool has ended, or does not serve a verifier.
        """
        for task in tasks:
            if task.verifier not in self._lane_of:
                raise PoolError(f"the pool does not serve {task.verifier}")
        pending = [Pending(next(self._numbers), task, Future()) for task in tasks]
        for each in pending:
            each.future.set_running_or_notify_cancel()  # from here on it cannot be cancelled, only resolved
        with self._lock:
            if self._failure is not None or self._is_stopping:
                raise self._failure or PoolError("the pool is stopped")
            if not self._inbox:
                self._wake()
            self._inbox.extend(pending)
        return [each.future for each in pending]

    def stop(self) -> None:
        """Kill the children; what is not judged yet fails with PoolError. Harmless if it was never started."""
        with self._lock:
            self._is_stopping = True
            if self._wake_descriptor >= 0:
                self._wake()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)
        if self._fork_client is not None:
            self._fork_client.stop()
            self._fork_client = None
        with self._lock:
            if self._wake_descriptor >= 0:
                os.close(self._wake_descriptor)
                self._wake_descriptor = -1

    def _make_lane(self, spec: LaneSpec, nursery: Nursery) -> Lane:
        if spec.is_async:
            return AsyncLane(spec, self._facts, nursery)
        return PureLane(spec, self._facts, nursery, num_slots=self._num_processes)

    def _wake(self) -> None:
        os.eventfd_write(self._wake_descriptor, 1)

    def _run(self) -> None:
        """The loop thread."""
        try:
            while not self._is_stopping:
                self._turn()
        except PoolError as error:
            self._failure = error
        except Exception as error:  # a bug of ours: nothing is judged any more, and everybody is told
            LOG.exception("the pool fails")
            self._failure = PoolError(f"the pool fails: {error!r}")
        finally:
            self._nursery.close()
            self._fail_pending(self._failure or PoolError("the pool is stopped"))
            self._started.set()

    def _turn(self) -> None:
        """One turn of the loop: what happened, what is new, who is late."""
        now_seconds = time.monotonic()
        early_seconds = self._turn_seconds + TURN_SECONDS - now_seconds
        if early_seconds > 0:
            time.sleep(early_seconds)
            now_seconds += early_seconds
        is_endless = math.isinf(self._next_seconds)
        self._nursery.run_once(None if is_endless else max(0.0, self._next_seconds - now_seconds))
        self._turn_seconds = now_seconds = time.monotonic()
        self._take_inbox()
        for lane in self._lanes:
            lane.work(now_seconds)
        self._next_seconds = min((lane.check(now_seconds) for lane in self._lanes), default=math.inf)
        if not self._started.is_set() and all(lane.is_ready for lane in self._lanes):
            self._started.set()

    def _take_inbox(self) -> None:
        with self._lock:
            if not self._inbox:
                return
            taken, self._inbox = self._inbox, []
            os.eventfd_read(self._wake_descriptor)
        for pending in taken:
            self._lane_of[pending.task.verifier].add(pending)

    def _fail_pending(self, error: PoolError) -> None:
        with self._lock:
            self._is_stopping = True
            unjudged, self._inbox = self._inbox, []
        for lane in self._lanes:
            unjudged += lane.pending()
        for pending in unjudged:
            pending.future.set_exception(error)


def _is_built_in(name: str, entry_point: str) -> bool:
    return not entry_point and name.partition("@")[0] in BUILT_IN_VERSIONS
