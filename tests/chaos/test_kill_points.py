"""Each part is killed at each point between two facts that belong together, alone and in pairs."""

import os
import random
import signal
from itertools import product
from pathlib import Path

import pytest

from chaos_stream import ChaosStream, only_in_full, print_journal, started_chaos
from hook_points import named
from tristream.wire.events import Part

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3600)]

NUM_PAIRS = int(os.environ.get("CHAOS_PAIRS", "2"))
"""How many pairs of points are tried; ``make chaos`` tries all."""


def kill_at(stream: ChaosStream, *hooks: str) -> None:
    """Kill parts, start them with a point at which each ends once more, and wait until all have."""
    members = [stream.members[Part(hook.partition(":")[0])] for hook in hooks]
    num_lives = [len(member.exit_codes) for member in members]
    for member, hook in zip(members, hooks, strict=True):
        member.hooks = [hook]
        member.signal(signal.SIGKILL)
    for member, number, hook in zip(members, num_lives, hooks, strict=True):
        stream.wait_until(
            lambda member=member, number=number: len(member.exit_codes) >= number + 2,  # type: ignore[misc]
            what=f"the end of the {member.part} at {hook}",
        )


def has_died_everywhere(stream: ChaosStream) -> bool:
    """Whether each part died at each of its points, and once before."""
    return all(stream.members[part].exit_codes.count(-signal.SIGKILL) > len(named(part)) for part in Part)


@pytest.mark.parametrize("kind", [pytest.param("kafka", marks=only_in_full), "embedded"])
def test_a_run_survives_a_kill_at_every_point_of_every_part(kind: str, tmp_path: Path) -> None:
    with started_chaos(tmp_path, kind, steps=60, with_monitor=True) as stream:
        for part in Part:
            stream.members[part].hooks = list(named(part))
            stream.members[part].signal(signal.SIGKILL)
        stream.wait_until(lambda: has_died_everywhere(stream) or stream.is_done, 600, "the death at every point")
        assert not stream.is_done, f"the run ended before all points were reached\n{stream.report()}"
        stream.finish()
        stream.must_balance()
        print_journal(stream)


def test_a_run_survives_kills_of_assembler_and_learner_at_pairs_of_points(tmp_path: Path) -> None:
    pairs = list(product(named(Part.ASSEMBLER), named(Part.LEARNER)))
    chosen = random.Random(NUM_PAIRS).sample(pairs, min(NUM_PAIRS, len(pairs)))
    with started_chaos(tmp_path, steps=20 + 10 * len(chosen)) as stream:
        stream.wait_until(lambda: stream.version >= 2, what="the first steps")
        for pair in chosen:
            kill_at(stream, *pair)
        stream.finish(1200)
        stream.must_balance()
        print_journal(stream)


@only_in_full
def test_the_archive_and_the_log_survive_kills_of_the_monitor_beside_a_broker_that_restarts(tmp_path: Path) -> None:
    with started_chaos(tmp_path, steps=100, with_monitor=True) as stream:
        for hook in named(Part.MONITOR):
            stream.wait_until(lambda before=stream.version: stream.version > before, what="a step")  # type: ignore[misc]
            kill_at(stream, hook)
            stream.restart_broker(2.0)
        stream.finish(300)
        stream.must_balance()
        print_journal(stream)
