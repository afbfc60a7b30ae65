"""What a worker goes through in its life: 50,000 rollouts with harmful ones among them, and a run that is rescored.

    python -m bench.verify_life memory [--rollouts 50000]
    python -m bench.verify_life rescore [--rollouts 10000]

*memory* prints what the worker, its fork server and its children hold of memory, by tenths of the rollouts. *rescore*
lets a worker score rollouts at half its rate, alone and while ``tristream rescore`` judges all that are on the log; it
prints both, and where the consumer groups stand. The broker is Apache Kafka where ``KAFKA_HOME`` names one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from bench.measuring import make_table, say, show
from bench.verify import SEED, of_version, to_wire, with_harm
from bench.verify_rollouts import GROUP_SIZE, make_rollouts
from bench.verify_run import Load, Outcome, Stage, exchange, score, staged, tree_pids
from kafka.admin import KafkaAdminClient

from tristream.local.broker import start_broker
from tristream.verifiers.offline.rescored_file import FOLDER
from tristream.verifiers.registry import BUILT_INS
from tristream.wire.events import Fate, Rollout, RolloutOutcome
from tristream.wire.events import Outcome as GroupOutcome
from tristream.wire.topics import OUTCOMES

NUM_TENTHS = 10
SAMPLES_PER_TENTH = 5
MOST_GROWTH = 1.1
NUM_LIVE = 4000
RESCORE = """
import sys
from tristream.assembler.rewards import final_reward
from tristream.config.run_file import RunFile
from tristream.verifiers.offline.logged_groups import Choice
from tristream.verifiers.offline.rescoring import Wish, rescore
settings = RunFile.model_validate_json(sys.argv[1])
wish = Wish(entry_point="math", choice=Choice(), params={}, weights={})
done = rescore(settings, settings.run.folder, wish, final_reward, num_workers=1)
print(sum(source.num_rollouts for source in done.sources))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Memory in MiB, pages that several processes share split among them."""

    worker: float
    fork_server: float
    children: float
    num_children: int


def held_by(worker: int) -> Held:
    """What a worker and the processes below it hold."""
    _, fork_server, *children = tree_pids(worker)
    return Held(
        worker=held_mib(worker),
        fork_server=held_mib(fork_server),
        children=sum(map(held_mib, children)),
        num_children=len(children),
    )


def held_mib(pid: int) -> float:
    """What a process holds; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def repeated(rollouts: Sequence[Rollout], number: int, first_group: int = 0) -> list[Rollout]:
    """So many rollouts, the same again and again, in groups of their own."""
    return [
        replace(
            rollouts[place % len(rollouts)],
            group=replace(rollouts[place % len(rollouts)].group, number=first_group + place // GROUP_SIZE),
        )
        for place in range(number)
    ]


def measure_memory(servers: str, folder: Path, rollouts: Sequence[Rollout], number: int) -> None:
    """Score rollouts of which 1 % do harm, and print the memory by tenths."""
    harmful, _ = with_harm(repeated(of_version(rollouts, "bench"), number))
    samples: list[list[Held]] = [[] for _ in range(NUM_TENTHS)]
    with staged(Load(broker="", num_workers=1, is_hostile=True), servers, folder) as stage:
        (worker,) = stage.workers.pids

        def sample(num_read: int) -> None:
            tenth = min(NUM_TENTHS - 1, num_read * NUM_TENTHS // number)
            if num_read * NUM_TENTHS * SAMPLES_PER_TENTH // number % SAMPLES_PER_TENTH >= len(samples[tenth]):
                samples[tenth].append(held_by(worker))

        start = time.monotonic()
        _, read, statuses = exchange(stage, harmful, on_read=sample)
        say(f"{len(read)} rollouts in {time.monotonic() - start:.0f} s, {len(statuses) - len(read)} rewards twice")
        left = held_by(worker)
    columns = ("tenth", "worker MiB", "fork server MiB", "children MiB", "most children")
    rows = [
        (
            str(tenth),
            *(f"{fmean(getattr(held, name) for held in found):.1f}" for name in ("worker", "fork_server", "children")),
            str(max(held.num_children for held in found)),
        )
        for tenth, found in enumerate(samples, start=1)
        if found
    ]
    show(make_table("memory of one worker", columns, rows))
    counted = [fmean(held.worker + held.fork_server for held in found) for found in samples[1:] if found]
    print(
        f"worker and fork server: x {counted[-1] / counted[0]:.2f} from the first of these after tenth 1 to the last "
        f"(at most {MOST_GROWTH}); {left.num_children} children at the end"
    )


def measure_rescoring(servers: str, folder: Path, rollouts: Sequence[Rollout], number: int) -> None:
    """Score rollouts, then others at half that rate, alone and beside a rescoring of the first."""
    full = Load(broker="", num_workers=1)
    with staged(full, servers, folder) as stage:
        logged = repeated(rollouts, number)
        half = replace(full, rate=score(stage, full, logged).rollouts_per_second / 2)
        settle(stage, logged)
        alone = score(stage, half, repeated(rollouts, NUM_LIVE, len(logged)))
        stands = where_groups_stand(servers)
        command = [sys.executable, "-c", RESCORE, stage.run_file.model_dump_json()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            results = stage.settings.run.folder.path / FOLDER
            while not any(results.rglob("*.jsonl")) and process.poll() is None:
                time.sleep(0.05)
            beside = score(stage, half, repeated(rollouts, NUM_LIVE, 2 * len(logged)))
            is_beside = process.poll() is None
            words = process.communicate()[0].split()
        if process.returncode:
            raise RuntimeError(f"the rescoring ended with {process.returncode}")
        time.sleep(2.0)  # so that the last rewards are committed
        print_rescoring(alone, beside, f"{words[-1]} rescored, {'longer' if is_beside else 'shorter'} than the run")
        print_groups(stands, where_groups_stand(servers))


def settle(stage: Stage, rollouts: Sequence[Rollout]) -> None:
    """Say what became of the groups of rollouts, without which they are not rescored."""
    for first in rollouts[::GROUP_SIZE]:
        worths = tuple(RolloutOutcome(index=index, valid=True, reward=0.5) for index in range(GROUP_SIZE))
        group = replace(first.group, run=stage.bus.run)
        outcome = GroupOutcome(group=group, fate=Fate.TRAINED, step=1, rollouts=worths, created_ns=time.time_ns())
        stage.bus.publish(OUTCOMES, outcome)
    stage.bus.flush()


def where_groups_stand(servers: str) -> Mapping[str, int]:
    """The sum of the committed offsets of each consumer group."""
    with closing(KafkaAdminClient(bootstrap_servers=servers)) as admin:
        names = [group["group_id"] for group in admin.list_groups()]
        offsets = {name: admin.list_group_offsets({name: None})[name] for name in names}
    return {name: sum(each.offset for each in found.values()) for name, found in offsets.items()}


def print_rescoring(alone: Outcome, beside: Outcome, note: str) -> None:
    """A run alone and beside a rescoring."""
    rows = [
        (
            name,
            *(f"{value:.0f}" for value in (found.load.rate, found.rollouts_per_second, found.p50_ms, found.p99_ms)),
            f"{found.busy_share:.0%}",
        )
        for name, found in (("alone", alone), ("beside a rescoring", beside))
    ]
    columns = ("run", "published/s", "scored/s", "p50 ms", "p99 ms", "cores busy")
    show(make_table(f"a run that is rescored: {note}", columns, rows))


def print_groups(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Consumer groups before and after a rescoring during which the run took 4,000 rollouts."""
    for name in sorted(before.keys() | after.keys()):
        print(f"consumer group {name}: committed {before.get(name, 'never')} -> {after.get(name, 'gone')}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.verify_life", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "rescore"))
    parser.add_argument("--rollouts", type=int, help="50,000 and 10,000 by default")
    arguments = parser.parse_args()
    rollouts = [
        to_wire(judging, place // GROUP_SIZE, BUILT_INS[judging.verifier].version)
        for place, judging in enumerate(make_rollouts(SEED))
    ]
    with tempfile.TemporaryDirectory() as name:
        broker = start_broker(Path(name))
        say(f"{broker.kind}, {os.cpu_count()} cores")
        try:
            if arguments.what == "memory":
                measure_memory(broker.bootstrap_servers, Path(name), rollouts, arguments.rollouts or 50_000)
            else:
                measure_rescoring(broker.bootstrap_servers, Path(name), rollouts, arguments.rollouts or 10_000)
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
