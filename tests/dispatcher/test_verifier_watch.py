"""Which verifiers are served, and how many groups wait for those that are not."""

from tristream.dispatcher.verifier_watch import VerifierWatch
from tristream.dispatcher.waiting_groups import WaitingGroups
from tristream.wire.events import Part, PartState, PartStatus, VerifierLoad


def status(
    part: Part = Part.VERIFIER, state: PartState = PartState.READY, created_ns: int = 1, **measures: float
) -> PartStatus:
    return PartStatus(
        run="demo",
        part=part,
        instance="host-1",
        state=state,
        since_ns=1,
        started_ns=1,
        created_ns=created_ns,
        measures={f"open/{name}": value for name, value in measures.items()},
        verifiers=(VerifierLoad(verifier="brief", version="1", num_scored=0),),
    )


def test_a_version_is_missing_once_nobody_has_served_it_for_so_long() -> None:
    watch = VerifierWatch(20.0)
    assert watch.find_missing(["brief@1"], 5.0) == set()
    assert watch.find_missing(["brief@1"], 24.9) == set()
    assert watch.find_missing(["brief@1"], 25.0) == {"brief@1"}
    watch.observe(status(), 26.0)
    assert watch.find_missing(["brief@1", "brief@2"], 45.9) == set()
    assert watch.find_missing(["brief@1", "brief@2"], 46.0) == {"brief@1"}


def test_time_counts_from_when_a_version_is_needed() -> None:
    watch = VerifierWatch(20.0)
    watch.find_missing(["brief@1"], 0.0)
    watch.find_missing([], 10.0)
    assert watch.find_missing(["brief@1"], 25.0) == set()
    assert watch.find_missing(["brief@1"], 45.0) == {"brief@1"}


def test_only_a_worker_that_is_at_work_serves() -> None:
    watch = VerifierWatch(20.0)
    watch.find_missing(["brief@1"], 0.0)
    watch.observe(status(state=PartState.DONE), 15.0)
    watch.observe(status(state=PartState.STARTING), 15.0)
    watch.observe(status(Part.LEARNER), 15.0)
    assert watch.find_missing(["brief@1"], 20.0) == {"brief@1"}
    assert watch.find_unseen(["brief@1"], 20.0) == {"brief@1"}
    watch.observe(status(), 21.0)
    assert watch.find_unseen(["brief@1"], 22.0) == set()


def test_groups_that_are_open_are_counted_by_source_and_less_by_those_that_were_dropped_since() -> None:
    waiting = WaitingGroups()
    assert waiting.count({"sums"}) == 0
    waiting.observe_status(status(Part.ASSEMBLER, created_ns=100, sums=5, counts=2))
    waiting.observe_dropped("sums", 90)
    assert (waiting.count({"sums"}), waiting.count({"sums", "counts"}), waiting.count(set())) == (5, 7, 0)
    waiting.observe_dropped("sums", 101)
    assert waiting.count({"sums"}) == 4
    waiting.observe_status(status(Part.ASSEMBLER, created_ns=99, sums=9))
    assert waiting.count({"sums"}) == 4
    waiting.observe_status(status(Part.ASSEMBLER, created_ns=102, sums=4))
    assert waiting.count({"sums"}) == 4
