"""One run of verifier workers on a broker: a log of rollouts, scored as fast as they can be or at a given rate."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.measuring import CLOCK_TICKS_PER_SECOND, DEMO, busy_cpu_seconds, load_demo, num_cores

from tristream.config.parts import VerifierSettings
from tristream.config.run_file import RunFile
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Reader
from tristream.wire.events import PartState, PartStatus, Reward, Rollout
from tristream.wire.topics import PARTS, REWARDS, ROLLOUTS

START_SECONDS = 120.0
SILENT_SECONDS = 60.0
"""Longest wait for the next reward."""
PUBLISHED_AT_ONCE = 200
"""Rewards are looked for between so many rollouts: who publishes all first sees the first reward late, and a rate that
is too high."""
COUNTED_SHARE = 0.9
"""The rate is that of so many of the rewards: at the end one worker may have nothing more to do."""
PROGRAM = """
import sys
from tristream.verifiers.main import main
from tristream.config.parts import VerifierSettings
main(VerifierSettings.model_validate_json(sys.argv[1]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run was asked."""

    broker: str
    num_workers: int
    rate: float = 0.0
    """Rollouts published a second; 0 for all at once."""
    is_hostile: bool = False
    """Whether the verifiers are those that can be harmed."""
    num_harmful: int = 0
    """Answers that do harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    load: Load
    num_rollouts: int
    rollouts_per_second: float
    """Of those that do no harm, if some do."""
    cpu_ms: float
    """CPU time of the workers and all their children, for each rollout."""
    busy_share: float
    """Of all cores, until the last reward was read: beyond it nothing could be faster."""
    p50_ms: float
    p99_ms: float
    """From publishing a rollout to reading its reward, of those that do no harm."""
    num_by_status: dict[str, int]
    num_twice: int
    """Rewards beyond one for each rollout."""


class Workers:
    """Worker processes of one run."""

    def __init__(self, settings: VerifierSettings, number: int, reader: Reader) -> None:
        command = [sys.executable, "-c", PROGRAM, settings.model_dump_json()]
        self._log = (settings.run.folder.path.parent / f"{settings.run.id}.log").open("ab")
        self._processes = [subprocess.Popen(command, stderr=self._log) for _ in range(number)]
        self._reader = reader

    def wait_until_ready(self) -> None:
        """Wait until all have their partitions, and for a moment longer."""
        states: dict[str, PartState] = {}
        deadline, since = time.monotonic() + START_SECONDS, 0.0
        while not since or time.monotonic() < since + 2.0:
            for record in self._reader.poll(0.2):
                if isinstance(record.event, PartStatus):
                    states[record.event.instance] = record.event.state
            ready = [state for state in states.values() if state is PartState.READY]
            since = (since or time.monotonic()) if len(ready) == len(self._processes) else 0.0
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                raise RuntimeError(f"the workers do not start, see {self._log.name}")

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [process.pid for process in self._processes]

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the workers and all processes below them, ended ones included."""
        return sum(map(tree_cpu_seconds, self.pids))

    def stop(self) -> None:
        """End them."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(timeout=30)
        self._log.close()


def tree_cpu_seconds(pid: int) -> float:
    """CPU time of a process, of those below it, and of those below it that have ended."""
    return sum(map(_cpu_seconds, tree_pids(pid)))


def tree_pids(pid: int) -> list[int]:
    """A process and those below it that live, parents first."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:
            continue
        for child in children:
            found += tree_pids(int(child))
    return found


def _cpu_seconds(pid: int) -> float:
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:  # it has just ended
        return 0.0
    return sum(int(word) for word in words[11:15]) / CLOCK_TICKS_PER_SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Workers that are ready for the rollouts of a run."""

    run_file: RunFile
    settings: VerifierSettings
    bus: KafkaBus
    reader: Reader
    workers: Workers


@contextmanager
def staged(load: Load, servers: str, folder: Path) -> Iterator[Stage]:
    """Start the workers of a load."""
    name = f"verify-{load.broker}-{load.num_workers}-{int(load.rate)}-{int(load.is_hostile)}-{time.time_ns() % 10**6}"
    overrides = [f"bus.bootstrap_servers={servers}", f"run.id={name}", "verification.num_processes=1"]
    run_file = load_demo(DEMO, folder, overrides)
    settings = _settings(run_file, is_hostile=load.is_hostile)
    bus = KafkaBus(name, settings.bus, "bench")
    bus.create_topics()
    reader = bus.reader([REWARDS, PARTS])
    workers = Workers(settings, load.num_workers, reader)
    try:
        workers.wait_until_ready()
        yield Stage(run_file=run_file, settings=settings, bus=bus, reader=reader, workers=workers)
    finally:
        workers.stop()
        reader.close()
        bus.close()


def run(load: Load, servers: str, folder: Path, rollouts: Sequence[Rollout], harmful: frozenset[int]) -> Outcome:
    """Score rollouts of this load; ``harmful`` are the numbers of those that do harm."""
    with staged(load, servers, folder) as stage:
        return score(stage, load, rollouts, harmful)


def score(stage: Stage, load: Load, rollouts: Sequence[Rollout], harmful: frozenset[int] = frozenset()) -> Outcome:
    """Publish rollouts, each only once in the life of a stage, and wait for their rewards."""
    cpu_seconds, busy_seconds, start = stage.workers.cpu_seconds, busy_cpu_seconds(), time.monotonic()
    published, read, statuses = exchange(stage, rollouts, rate=load.rate)
    cpu_seconds, busy_seconds = stage.workers.cpu_seconds - cpu_seconds, busy_cpu_seconds() - busy_seconds
    delays = sorted(1000 * (read[place] - published[place]) for place in read if place not in harmful)
    harmless = sorted(seconds for place, seconds in read.items() if place not in harmful)
    counted = harmless[: max(2, int(COUNTED_SHARE * len(harmless)))]
    return Outcome(
        load=load,
        num_rollouts=len(read),
        rollouts_per_second=(len(counted) - 1) / (counted[-1] - counted[0]),
        cpu_ms=1000 * cpu_seconds / len(read),
        busy_share=busy_seconds / (num_cores() * (time.monotonic() - start)),
        p50_ms=delays[len(delays) // 2],
        p99_ms=delays[int(0.99 * (len(delays) - 1))],
        num_by_status={status: statuses.count(status) for status in sorted(set(statuses))},
        num_twice=len(statuses) - len(read),
    )


def exchange(
    stage: Stage,
    rollouts: Sequence[Rollout],
    *,
    rate: float = 0.0,
    on_read: Callable[[int], None] = lambda _number: None,
) -> tuple[list[float], dict[int, float], list[str]]:
    """Publish all and read their rewards: when each was published and read, by place, and all statuses.

    Args:
        stage: where.
        rollouts: what to publish.
        rate: so many a second; 0 for all at once.
        on_read: is told again and again how many have a reward.
    """
    bus = stage.bus
    places = {(rollout.group.number, rollout.index): place for place, rollout in enumerate(rollouts)}
    start = time.monotonic()
    published: list[float] = []
    read: dict[int, float] = {}
    statuses: list[str] = []
    heard = start
    while len(read) < len(rollouts):
        due = int((time.monotonic() - start) * rate) + 1 if rate else len(published) + PUBLISHED_AT_ONCE
        for rollout in rollouts[len(published) : due]:
            published.append(time.monotonic())
            bus.publish(
                ROLLOUTS, replace(rollout, group=replace(rollout.group, run=bus.run), created_ns=time.time_ns())
            )
        for record in stage.reader.poll(0.002, max_records=5000):
            if isinstance(record.event, Reward):
                heard = time.monotonic()
                statuses.append(record.event.status.value)
                read.setdefault(places[record.event.group.number, record.event.index], heard)
        on_read(len(read))
        if time.monotonic() > heard + SILENT_SECONDS:
            raise RuntimeError(f"{len(read)} of {len(rollouts)} rollouts have a reward after {SILENT_SECONDS:.0f} s")
    return published, read, statuses


def _settings(run_file: RunFile, *, is_hostile: bool) -> VerifierSettings:
    settings = VerifierSettings.of(run_file)
    plug_ins: dict[str, str] = {}
    served: tuple[str, ...] = ("math", "detection")
    if is_hostile:
        file = Path(__file__).with_name("hostile_verifiers.py")
        plug_ins = {"math@bench": f"{file}:hostile_math", "detection@bench": f"{file}:hostile_detection"}
        served = (*plug_ins, *served)  # with the real ones, so that a new child has loaded what they need
    verification = settings.verification.model_copy(
        update={"plug_ins": plug_ins, "verifiers": served, "shadows": ()}  # the demo's own would judge them too
    )
    return settings.model_copy(update={"verification": verification})
