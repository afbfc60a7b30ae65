"""Constructed runs in the embedded ClickHouse of the session."""

import threading
from collections.abc import Callable, Sequence

import pytest

from tristream.monitoring.queries.why.explaining import explain
from tristream.monitoring.queries.why.explanation import Explanation
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.sink import Sink
from tristream.runtime.bus.memory import MemoryBus
from why_runs import SCENARIOS, SIDE, STEP, ConstructedRun, Scenario

Explain = Callable[[str, Sequence[Scenario], int], Explanation]


@pytest.fixture(scope="session")
def play(client: Client) -> Callable[[str, Sequence[Scenario], int], MemoryBus]:
    """Publish a constructed run and write it through the sink; each name once."""
    played: dict[str, MemoryBus] = {}

    def play_run(run: str, scenarios: Sequence[Scenario], seed: int) -> MemoryBus:
        if run not in played:
            bus = played[run] = MemoryBus(run)
            ConstructedRun(bus, seed, scenarios).publish()
            stop = threading.Event()
            stop.set()
            sink = Sink(bus, client, flush_seconds=0.1, stop=stop)
            sink.run()
            sink.close()
        return played[run]

    return play_run


@pytest.fixture(scope="session")
def explain_run(client: Client, play: Callable[[str, Sequence[Scenario], int], MemoryBus]) -> Explain:
    """Play a run of this name, and explain the step at which it changes."""

    def explain_it(run: str, scenarios: Sequence[Scenario], seed: int) -> Explanation:
        return explain(client, play(run, scenarios, seed).run, STEP, num_steps=SIDE)

    return explain_it


@pytest.fixture
def truncated(explain_run: Explain) -> Explanation:
    """A run in which max_tokens was lowered."""
    return explain_run("why-truncation", SCENARIOS["truncation"], 1)
