"""One dispatcher, one assembler, one learner: a second one is refused, a frozen one is replaced and harms nobody."""

import signal
import time
from pathlib import Path

import pytest

from chaos_stream import ChaosStream, Member, only_in_full, started_chaos
from tristream.wire.events import Part

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

LEASED = (Part.DISPATCHER, Part.ASSEMBLER, Part.LEARNER)
USER_ERROR = 2


def await_end(stream: ChaosStream, member: Member, timeout_seconds: float) -> int:
    """The exit code of a process that is to end by itself."""
    stream.wait_until(
        lambda: not member.is_alive and bool(member.exit_codes), timeout_seconds, f"the end of {member.name}"
    )
    return member.exit_codes[-1]


def test_a_second_one_is_refused_in_words_and_does_the_first_no_harm(tmp_path: Path) -> None:
    with started_chaos(tmp_path, steps=150) as stream:
        stream.wait_until(lambda: stream.version >= 3, what="the first steps")
        address = stream.members[Part.ASSEMBLER].port
        for part in LEASED:
            started = time.monotonic()
            second = stream.add(part, f"{part}-2", is_wanted=False)
            assert await_end(stream, second, 60.0) == USER_ERROR, stream.last_words(second.name)
            assert f"is its {part} already, and at work" in stream.last_words(second.name)
            stream.note(f"second {part} refused after {time.monotonic() - started:.1f} s")
            if part is Part.ASSEMBLER:
                stream.connect_to(address)
        stream.finish()
        for part in LEASED:
            assert [code for code in stream.members[part].exit_codes if code] == []
        stream.must_balance()


@only_in_full
def test_those_that_wake_up_beside_a_successor_end_and_change_nothing(tmp_path: Path) -> None:
    with started_chaos(
        tmp_path, steps=400, assembly__generation_timeout_seconds=5, assembly__scoring_timeout_seconds=5
    ) as stream:
        for part in LEASED:
            stream.wait_until(lambda before=stream.version: stream.version >= before + 3, what="steps")  # type: ignore[misc]
            frozen = stream.members[part]
            frozen.is_wanted = False
            frozen.signal(signal.SIGSTOP)
            stream.note(f"{part} frozen at version {stream.version}")
            stream.add(part, f"{part}-2")
            before = stream.version
            stream.wait_until(lambda before=before: stream.version >= before + 15, what=f"work of the new {part}")  # type: ignore[misc]
            frozen.signal(signal.SIGCONT)
            stream.note(f"old {part} wakes up at version {stream.version}")
            assert await_end(stream, frozen, 30.0) == USER_ERROR, stream.last_words(part, 40)
            assert "has taken over" in stream.last_words(part, 40)
        stream.finish()
        stream.must_balance()
