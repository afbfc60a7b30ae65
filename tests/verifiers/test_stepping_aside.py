"""What takes long steps aside for others: which order verdicts come in, and what stopped processes hold."""

import time
from collections.abc import Iterator
from functools import partial

import pytest
from test_pool import (
    MISBEHAVING,
    SCORED,
    TIMEOUT,
    entry_point,
    judge,
    make_task,
    running,
    statuses,
    verdicts_of,
)

from tristream.verifiers.pool import Pool, Verdict, pure_lane
from tristream.verifiers.pool.patience import Patience


@pytest.fixture(scope="module")
def shared() -> Iterator[Pool]:
    with running({MISBEHAVING: entry_point("misbehaving")}) as pool:
        yield pool


def delays_beside(pool: Pool, text: str, num_others: int) -> tuple[float, list[float], Verdict]:
    """When the slow one is done, when each of the others, and the verdict on the slow one."""
    start = time.monotonic()
    done: dict[int, float] = {}
    texts = [*["x"] * (num_others // 2), text, *["x"] * (num_others // 2)]
    futures = pool.submit([make_task(text) for text in texts])

    def note(place: int, _: object) -> None:
        done[place] = time.monotonic() - start

    for place, future in enumerate(futures):
        future.add_done_callback(partial(note, place))
    verdicts = verdicts_of(futures)
    slow = num_others // 2
    assert statuses(verdicts[:slow] + verdicts[slow + 1 :]) == [SCORED] * num_others
    return done[slow], [seconds for place, seconds in done.items() if place != slow], verdicts[slow]


def test_an_endless_loop_delays_none_of_the_others_until_its_deadline() -> None:
    with running({MISBEHAVING: entry_point("misbehaving")}, cpu_seconds=2.0) as pool:
        slow, others, verdict = delays_beside(pool, "hang", 200)
    assert verdict.status is TIMEOUT
    assert slow > max(others)


def test_what_waits_without_computing_gives_its_slot_up(shared: Pool) -> None:
    slow, others, verdict = delays_beside(shared, "sleep 2", 20)
    assert verdict.status is SCORED
    assert max(others) < slow


def test_many_more_hang_than_can_stand_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pure_lane, "MAX_CHILDREN_ASIDE", 3)
    with running({MISBEHAVING: entry_point("misbehaving")}, cpu_seconds=0.2) as pool:
        verdicts = judge(pool, *["hang", "x"] * 8)
        assert statuses(verdicts) == [TIMEOUT, SCORED] * 8
        assert statuses(judge(pool, "x")) == [SCORED]


def test_what_stands_aside_holds_no_more_memory_than_one_slot_may() -> None:
    with running({MISBEHAVING: entry_point("misbehaving")}, cpu_seconds=1.0) as pool:
        done: list[str] = []

        def note(text: str, _: object) -> None:
            done.append(text)

        texts = ["hoard", "hoard", "hoard", *["x"] * 20]
        futures = pool.submit([make_task(text) for text in texts])
        for text, future in zip(texts, futures, strict=True):
            future.add_done_callback(partial(note, text))
        assert statuses(verdicts_of(futures)) == [TIMEOUT] * 3 + [SCORED] * 20
    assert done[0] == "hoard", "the third had to keep its slot"


def test_what_uses_up_its_limits_makes_nobody_more_patient() -> None:
    patience = Patience()

    def seconds() -> float:
        return patience.cpu_seconds(MISBEHAVING, num_tasks=1000, start_cpu_seconds=0.0)

    before = seconds()
    patience.learn(MISBEHAVING, Verdict(status=TIMEOUT, cpu_seconds=100.0))
    assert seconds() == before
    patience.learn(MISBEHAVING, Verdict(status=SCORED, cpu_seconds=100.0))
    assert seconds() > before


def test_slow_but_honest_rollouts_stand_aside_and_are_scored(shared: Pool) -> None:
    num_restarts = shared.num_restarts
    verdicts = judge(shared, *["compute 0.2", "x"] * 3)
    assert statuses(verdicts) == [SCORED] * 6
    assert shared.num_restarts == num_restarts
