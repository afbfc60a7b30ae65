from tristream.dispatcher.recent_groups import RecentGroups
from tristream.wire.events import DropReason

EQUAL, MISSING, STALE = DropReason.ZERO_VARIANCE, DropReason.INCOMPLETE, DropReason.STALE


def make_groups(outcomes: str, size: int = 100) -> RecentGroups:
    """One letter a group: t trained, z zero variance, i incomplete, s stale, . no outcome yet."""
    groups = RecentGroups(size)
    reasons = {"t": None, "z": EQUAL, "i": MISSING, "s": STALE}
    for number in range(len(outcomes)):
        groups.observe_dispatched(number)
    for number, letter in enumerate(outcomes):
        if letter != ".":
            groups.observe_outcome(number, reasons[letter])
    return groups


def test_a_run_of_equal_drops_is_counted_in_the_order_of_dispatch() -> None:
    assert make_groups("tzzzz").longest_run(0) == (EQUAL, 4)
    assert make_groups("zzzzt").longest_run(0) == (None, 0)
    assert make_groups("zzzi").longest_run(0) == (MISSING, 1)
    assert make_groups("zzszz").longest_run(0) == (EQUAL, 4)
    assert make_groups("zzzz").longest_run(2) == (EQUAL, 2)
    assert make_groups("").longest_run(0) == (None, 0)


def test_a_group_without_outcome_may_be_trained_and_parts_a_run() -> None:
    """Trained groups have their outcome only when they are durable, so that drops alone are heard of for a while."""
    assert make_groups("z.z.z.z.").longest_run(0) == (EQUAL, 1)
    assert make_groups("..zzzzz..z.").longest_run(0) == (EQUAL, 5)


def test_shares_are_those_of_the_groups_up_to_the_newest_outcome() -> None:
    assert make_groups("zz.i....").drop_shares() == {EQUAL: 0.5, MISSING: 0.25}
    assert make_groups("...").drop_shares() == {}


def test_old_groups_are_forgotten_and_what_becomes_of_them_is_no_news() -> None:
    groups = make_groups("z" * 20, size=5)
    groups.observe_outcome(3, MISSING)
    assert groups.longest_run(0) == (EQUAL, 5)
    assert groups.num_followed(0) == 5
    assert not groups.has_trained(0)


def test_groups_may_be_told_in_any_order_and_twice() -> None:
    groups = RecentGroups(3)
    for number in (4, 2, 2, 5, 3, 1):
        groups.observe_dispatched(number)
    for number in (5, 4, 4, 3):
        groups.observe_outcome(number, EQUAL)
    groups.observe_outcome(4, None)
    assert groups.longest_run(0) == (EQUAL, 3)
