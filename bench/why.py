"""How often ``tristream why`` names what was injected first, and how often it names something in a quiet run.

OMP_NUM_THREADS=1 PYTHONPATH=tests/support python -m bench.why --seeds 3 --quiet 10
"""

import argparse
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from tristream.monitoring.queries.why.explaining import explain
from tristream.monitoring.queries.why.explanation import Explanation
from tristream.monitoring.store.clickhouse import open_embedded
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.migrations import migrate
from tristream.monitoring.store.sink import Sink
from tristream.runtime.bus.memory import MemoryBus
from why_runs import SCENARIOS, SIDE, STEP, ConstructedRun, Scenario

PAIRS = [
    ("threshold 0.95 -> 0.99", "outage"), ("truncation", "verifier"), ("mix", "data: truths"),
    ("learning_rate", "coverage"), ("weights", "staleness"), ("data: new samples", "producers"),
]  # fmt: skip


def play(client: Client, run: str, scenarios: Sequence[Scenario], seed: int) -> Explanation:
    bus = MemoryBus(run)
    ConstructedRun(bus, seed, scenarios).publish()
    stop = threading.Event()
    stop.set()
    sink = Sink(bus, client, flush_seconds=0.1, stop=stop)
    sink.run()
    sink.close()
    return explain(client, run, STEP, num_steps=SIDE)


def say(name: str, seed: int, expected: set[str], found: Explanation) -> bool:
    named = [cause.kind for cause in found.causes if cause.stands_out]
    is_right = set(named[: len(expected)]) == expected if expected else not named
    print(f"{'right' if is_right else 'WRONG'}  {name}, seed {seed}: {found.verdict}", flush=True)
    return is_right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=1, help="first seed")
    parser.add_argument("--quiet", type=int, default=10, help="quiet runs")
    given = parser.parse_args()
    client = open_embedded(Path(tempfile.mkdtemp()))
    migrate(client)
    tally: dict[str, list[bool]] = {"one cause": [], "two causes": [], "quiet": []}
    for seed in range(given.first, given.first + given.seeds):
        for name, scenarios in SCENARIOS.items():
            found = play(client, f"{name} {seed}", scenarios, seed)
            tally["one cause"].append(say(name, seed, {name.split()[0].rstrip(":")}, found))
        for one, other in PAIRS:
            found = play(client, f"{one} {other} {seed}", (*SCENARIOS[one], *SCENARIOS[other]), seed)
            kinds = {name.split()[0].rstrip(":") for name in (one, other)}
            tally["two causes"].append(say(f"{one} + {other}", seed, kinds, found))
    for seed in range(given.first, given.first + given.quiet):
        tally["quiet"].append(say("quiet", seed, set(), play(client, f"quiet {seed}", (), seed)))
    for title, rights in tally.items():
        print(f"{title}: {sum(rights)} of {len(rights)} right")


if __name__ == "__main__":
    main()
