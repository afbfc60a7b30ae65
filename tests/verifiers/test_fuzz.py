"""Whatever a policy answers and a row asks: one verdict each, in range, and never an error.

``FUZZ_INPUTS`` says how many are tried on each verifier; ``make fuzz-verifiers`` tries 100,000.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from fuzz_inputs import make_task

from tristream.verifiers.contract import Rollout
from tristream.verifiers.pool import Pool, Task, Verdict
from tristream.verifiers.registry import BUILT_INS
from tristream.wire.events import Status

NUM_INPUTS = int(os.environ.get("FUZZ_INPUTS", "200"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
BATCH_SIZE = 1000


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    running = Pool({definition.versioned_name: "" for definition in BUILT_INS.values()}, num_processes=2)
    running.start()
    yield running
    running.stop()


@pytest.mark.timeout(60 + NUM_INPUTS // 20)
@pytest.mark.parametrize("name", BUILT_INS)
def test_any_input_gets_one_verdict_in_range(pool: Pool, name: str) -> None:
    rng = random.Random(f"{SEED} {name}")
    counts: Counter[Status] = Counter()
    for start in range(0, NUM_INPUTS, BATCH_SIZE):
        tasks = [make_task(rng, name) for _ in range(min(BATCH_SIZE, NUM_INPUTS - start))]
        futures = pool.submit(tasks)
        for task, future in zip(tasks, futures, strict=True):
            verdict = future.result()
            counts[verdict.status] += 1
            assert verdict.status is not Status.ERROR, (verdict.detail, task)
            assert_in_range(verdict, name)
    print(f"{name}: {', '.join(f'{count} {status}' for status, count in sorted(counts.items()))}")
    assert counts[Status.SCORED] > 0
    assert counts[Status.UNSCORABLE] > 0


def test_a_pattern_that_backtracks_without_end_is_ended_by_the_cpu_limit(pool: Pool) -> None:
    rollout = Rollout(text="a" * 60 + "b", ground_truth="(a+)+$")
    (future,) = pool.submit([Task(verifier=BUILT_INS["regex"].versioned_name, rollouts=(rollout,))])
    verdict = future.result()
    assert (verdict.status, verdict.is_truth_fine) == (Status.TIMEOUT, True)


def assert_in_range(verdict: Verdict, name: str) -> None:
    assert len(verdict.judgements) == int(verdict.status is Status.SCORED)
    for judgement in verdict.judgements:
        for component, value in judgement.components.items():
            low, high = BUILT_INS[name].components[component]
            assert low <= value <= high
