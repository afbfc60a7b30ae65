from dataclasses import dataclass

import pytest

from tristream.dispatcher.source_pauses import Change, SourcePauses
from tristream.wire.events import Command, CommandKind, DropReason

PAUSE, RESUME = CommandKind.PAUSE_SOURCE, CommandKind.RESUME_SOURCE


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Play:
    """Two sources, of which the dispatcher does at once what is due."""

    def __init__(self, pause_after: int = 8) -> None:
        self.clock = Clock()
        self.pauses = SourcePauses(["sums", "counts"], pause_after=pause_after, num_in_flight=16, clock=self.clock)
        self.number = 0

    def drop(self, num_groups: int, reason: DropReason | None = DropReason.UNSCORED, source: str = "sums") -> None:
        for _ in range(num_groups):
            self.pauses.observe_dispatched(source, self.number)
            self.pauses.observe_outcome(source, self.number, reason)
            self.number += 1

    def act(self) -> list[Change]:
        changes = self.pauses.due()
        for change in changes:
            identity = f"automatic/{change.trial}/{change.kind}/{change.source}/{self.number}"
            self.command(change.kind, change.source, identity, change.reason)
        return changes

    def command(self, kind: CommandKind, source: str, identity: str, reason: str = "") -> None:
        self.pauses.observe_command(
            Command(
                run="demo",
                id=identity,
                kind=kind,
                sources=(source,),
                from_number=self.number,
                reason=reason,
                created_ns=1,
            )
        )


def kinds(changes: list[Change]) -> list[tuple[CommandKind, str]]:
    return [(change.kind, change.source) for change in changes]


def test_a_source_that_only_drops_is_paused_with_its_reason() -> None:
    play = Play()
    play.drop(3, source="counts")
    play.drop(7)
    assert play.act() == []
    play.drop(1)
    assert kinds(play.act()) == [(PAUSE, "sums")]
    assert play.pauses.describe().startswith("source sums is paused until ")
    assert play.pauses.describe().endswith(": its last 8 groups were dropped as unscored")
    assert play.pauses.measures() == {
        "paused/sums": 1.0,
        "paused/counts": 0.0,
        "drops/sums/unscored": 1.0,
        "drops/counts/unscored": 1.0,
    }


@pytest.mark.parametrize("reason", [None, DropReason.INCOMPLETE])
def test_another_outcome_in_between_keeps_a_source_going(reason: DropReason | None) -> None:
    play = Play()
    play.drop(7)
    play.drop(1, reason)
    play.drop(7)
    assert play.act() == []


def test_stale_groups_say_nothing_of_their_source() -> None:
    play = Play()
    play.drop(30, DropReason.STALE)
    assert play.act() == []


def test_with_zero_a_source_is_never_paused() -> None:
    play = Play(pause_after=0)
    play.drop(500)
    assert play.act() == []


def test_it_is_tried_again_after_30_s_then_after_twice_that_up_to_10_minutes() -> None:
    play = Play(pause_after=64)
    play.drop(64)
    waits = []
    for _ in range(7):
        assert kinds(play.act()) == [(PAUSE, "sums")]
        began = play.clock.seconds
        while not (changes := play.act()):
            play.clock.seconds += 1.0
        assert kinds(changes) == [(RESUME, "sums")]
        waits.append(play.clock.seconds - began)
        play.drop(7)
        assert play.act() == []
        play.drop(1)
    assert waits == [30, 60, 120, 240, 480, 600, 600]


@pytest.mark.parametrize("works_by", ["training", "time"])
def test_a_source_that_works_again_is_given_all_its_drops_again(works_by: str) -> None:
    play = Play(pause_after=40)
    play.drop(40)
    play.act()
    play.clock.seconds += 31
    assert kinds(play.act()) == [(RESUME, "sums")]
    if works_by == "training":
        play.drop(1, None)
    else:
        for _ in range(21):
            play.drop(1)
            play.pauses.observe_dispatched("sums", play.number)
            play.number += 1
    assert play.act() == []
    play.drop(39)
    assert play.act() == []
    play.drop(1)
    assert [change.trial for change in play.act()] == [1]


def test_drops_of_before_the_pause_do_not_count_after_it() -> None:
    play = Play()
    play.drop(8)
    for number in range(8, 14):
        play.pauses.observe_dispatched("sums", number)
    play.number = 14
    play.act()
    for number in range(8, 14):
        play.pauses.observe_outcome("sums", number, DropReason.UNSCORED)
    play.clock.seconds += 31
    assert kinds(play.act()) == [(RESUME, "sums")]
    assert play.act() == []


def test_what_a_person_paused_only_a_person_resumes() -> None:
    play = Play()
    play.command(PAUSE, "sums", "by-hand/from/0", "the labels are wrong")
    play.clock.seconds += 10_000
    assert play.act() == []
    assert play.pauses.describe() == "source sums is paused until it is resumed by command: the labels are wrong"
    play.command(RESUME, "sums", "by-hand-2/from/0")
    assert play.pauses.describe() == ""


def test_a_person_may_resume_what_was_paused_by_itself() -> None:
    play = Play()
    play.drop(8)
    play.act()
    play.command(RESUME, "sums", "by-hand/from/8")
    play.drop(7)
    assert play.act() == []
    assert play.pauses.measures()["paused/sums"] == 0.0


def test_a_share_that_is_over_is_told_as_zero() -> None:
    play = Play()
    play.drop(1)
    assert play.pauses.measures()["drops/sums/unscored"] == 1.0
    play.drop(600, None)
    assert play.pauses.measures()["drops/sums/unscored"] == 0.0
