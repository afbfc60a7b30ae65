"""Low-water marks and credits: nothing below a mark is unsettled, whatever the order."""

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tristream.verifiers.service.low_water import LowWater
from tristream.verifiers.service.window import Lane, Ticket, Window

MOVES = st.lists(st.tuples(st.sampled_from(["take", "settle"]), st.integers(0, 30)), max_size=80)


@given(st.integers(0, 5), MOVES)
def test_a_mark_is_the_smallest_offset_that_may_still_be_unsettled(start: int, moves: list[tuple[str, int]]) -> None:
    records = LowWater(start)
    taken: set[int] = set()
    settled: set[int] = set()
    for move, number in moves:
        before = records.mark
        if move == "take":
            offset = start + number
            is_new = offset > max(taken, default=start - 1)
            assert records.take(offset) is is_new
            taken |= {offset} if is_new else set()
        else:
            is_open = start + number in taken - settled
            assert records.settle(start + number) is is_open
            settled |= {start + number} if is_open else set()
        assert records.mark >= before
        assert records.mark == min(taken - settled, default=max(taken, default=start - 1) + 1)
        assert not any(offset < records.mark for offset in taken - settled)


@settings(max_examples=50)
@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_settled_by_many_threads_in_any_order_the_mark_ends_at_the_end(number: int, random: Any) -> None:
    window = Window({Lane.PURE: 10})
    window.assign({"p": 3})
    tickets = [window.take("p", 3 + place) for place in range(number)]
    random.shuffle(tickets)
    shares = [tickets[start::3] for start in range(3)]
    threads = [threading.Thread(target=lambda share=share: [t.settle() for t in share if t]) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert window.marks() == {"p": 3 + number}


def take(window: Window, partition: str, offset: int) -> Ticket:
    ticket = window.take(partition, offset)
    assert ticket is not None
    return ticket


def test_a_slow_record_holds_back_its_own_partition_alone() -> None:
    window = Window({Lane.PURE: 10})
    window.assign({"a": 0, "b": 5})
    slow, fast = take(window, "a", 0), take(window, "a", 1)
    take(window, "b", 5).settle()
    fast.settle()
    assert window.marks() == {"a": 0, "b": 6}
    slow.settle()
    assert window.marks() == {"a": 2, "b": 6}


def test_a_ticket_of_an_earlier_assignment_settles_nothing() -> None:
    window = Window({Lane.PURE: 10})
    window.assign({"a": 0, "b": 0})
    early, other = take(window, "a", 0), take(window, "b", 0)
    window.restart("a", 0)
    again = take(window, "a", 0)
    assert not early.is_beside(again)
    early.settle()
    other.settle()
    assert window.marks() == {"a": 0, "b": 1}
    window.assign({})
    again.settle()
    assert window.marks() == {}
    assert window.take("a", 1) is None


def test_lanes_have_credits_of_their_own() -> None:
    window = Window({Lane.PURE: 2, Lane.ASYNC: 4})
    window.begin(Lane.ASYNC, 3)
    assert (window.room, window.num_in_works) == (1, 3)
    window.begin(Lane.PURE, 2)
    assert window.room == 0
    window.end(Lane.PURE)
    assert window.room == 1
    window.begin(Lane.ASYNC)
    assert window.room == 0


def test_whoever_waits_for_room_is_woken_by_another_thread() -> None:
    async def wait() -> tuple[bool, bool, bool]:
        window = Window({Lane.PURE: 1})
        window.begin(Lane.PURE)
        has_none = await window.wait_for_room(1, 0.01)
        threading.Timer(0.05, window.end, [Lane.PURE]).start()
        return has_none, await window.wait_for_room(1, 10.0), await window.wait_until_idle(0.0)

    assert asyncio.run(wait()) == (False, True, True)


@pytest.mark.parametrize("fails_first", [True, False])
def test_a_failure_ends_every_wait(fails_first: bool) -> None:
    async def wait() -> tuple[bool, bool]:
        window = Window({Lane.PURE: 1})
        window.begin(Lane.PURE)
        if fails_first:
            window.fail(ValueError("first"))
        else:
            threading.Timer(0.05, window.fail, [ValueError("first")]).start()
        waits = await asyncio.gather(window.wait_for_room(1, 10.0), window.wait_until_idle(10.0))
        window.fail(ValueError("second"))
        assert str(window.failure) == "first"
        return waits[0], waits[1]

    assert asyncio.run(wait()) == (False, False)
