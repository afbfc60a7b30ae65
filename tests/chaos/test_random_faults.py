"""Random faults from a seed: kills, freezes, members that come and go, a broker that goes; see ``make chaos``."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos_stream import ChaosStream, only_in_full, print_journal, started_chaos
from tristream.wire.events import Part

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

SEEDS = range(1, int(os.environ.get("CHAOS_SEEDS", "1")) + 1)
NUM_FAULTS = int(os.environ.get("CHAOS_FAULTS", "5"))
NUM_STEPS = int(os.environ.get("CHAOS_STEPS", "100"))


def kill(stream: ChaosStream, rng: random.Random) -> None:
    """End one to three parts at once."""
    for part in rng.sample(list(Part)[:-1], rng.randint(1, 3)):
        stream.note(f"kill {part}")
        stream.members[part].signal(signal.SIGKILL)


def freeze(stream: ChaosStream, rng: random.Random) -> None:
    """Stop a part where it is, for a while."""
    part, seconds = rng.choice(list(Part)[:-1]), rng.uniform(0.5, 12.0)
    stream.note(f"freeze {part} for {seconds:.1f} s")
    member = stream.members[part]
    member.signal(signal.SIGSTOP)
    stream.wait(seconds)
    member.signal(signal.SIGCONT)


def freeze_broker(stream: ChaosStream, rng: random.Random) -> None:
    """Stop the broker where it is, for a while."""
    stream.freeze_broker()
    stream.wait(rng.uniform(0.5, 15.0))
    stream.thaw_broker()


def restart_broker(stream: ChaosStream, rng: random.Random) -> None:
    """Kill the broker and start it again."""
    stream.restart_broker(rng.uniform(0.0, 8.0))


def join_and_leave(stream: ChaosStream, rng: random.Random) -> None:
    """One more producer or worker, for a while."""
    part = rng.choice([Part.PRODUCER, Part.VERIFIER])
    member = stream.add(part, f"{part}-{len(stream.members)}")
    stream.note(f"{member.name} joins")
    stream.wait(rng.uniform(1.0, 8.0))
    member.is_wanted = False
    member.signal(rng.choice([signal.SIGTERM, signal.SIGKILL]))


FAULTS: tuple[Callable[[ChaosStream, random.Random], None], ...] = (
    kill, kill, freeze, freeze_broker, restart_broker, join_and_leave,
)  # fmt: skip


@only_in_full
@pytest.mark.parametrize("seed", SEEDS)
def test_a_run_with_random_faults_accounts_for_every_group(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    num_faults, began = 0, time.monotonic()
    with started_chaos(tmp_path, steps=NUM_STEPS) as stream:
        stream.wait_until(lambda: stream.version >= 2, what="the first steps")
        while num_faults < NUM_FAULTS and not stream.is_done:
            rng.choice(FAULTS)(stream, rng)
            stream.wait(rng.uniform(0.0, 3.0))
            num_faults += 1
        stream.finish(600)
        minutes = (time.monotonic() - began) / 60
        stream.must_balance()
        stream.note(
            f"seed {seed}: {num_faults} faults, {stream.num_deaths} deaths, "
            f"{NUM_STEPS} steps in {minutes:.1f} minutes, {NUM_STEPS / minutes:.0f} a minute"
        )
        print_journal(stream)
