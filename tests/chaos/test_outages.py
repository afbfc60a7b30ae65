"""The broker goes and comes back: nobody ends, everybody says what it waits for, and the work goes on."""

from pathlib import Path

import pytest

from chaos_stream import ChaosStream, only_in_full, started_chaos
from tristream.wire.events import Part

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

NAMED_SECONDS = 15.0
BACK_SECONDS = 5.0


def all_name_the_broker(stream: ChaosStream) -> bool:
    return all("broker" in stream.status(part).get("waiting_for", "") for part in Part if part is not Part.MONITOR)


@only_in_full
@pytest.mark.parametrize("is_frozen", [True, False], ids=["frozen", "killed"])
def test_a_broker_that_goes_for_a_while_ends_nobody(is_frozen: bool, tmp_path: Path) -> None:
    with started_chaos(tmp_path, steps=200) as stream:
        stream.wait_until(lambda: stream.version >= 5, what="the first steps")
        stream.freeze_broker() if is_frozen else stream.kill_broker()
        stream.wait_until(lambda: all_name_the_broker(stream), NAMED_SECONDS, "that all parts name the broker")
        stream.wait(15.0)
        stream.thaw_broker() if is_frozen else stream.start_broker()
        before = stream.version
        stream.wait_until(lambda: stream.version > before, 2 * BACK_SECONDS, "a step after the return of the broker")
        stream.finish()
        assert {name: member.exit_codes for name, member in stream.members.items() if member.exit_codes[:-1]} == {}
        stream.must_balance()


@only_in_full
def test_parts_that_start_before_their_broker_wait_for_it(tmp_path: Path) -> None:
    with started_chaos(tmp_path, steps=10, broker_is_up=False) as stream:
        stream.wait_until(lambda: all_name_the_broker(stream), 2 * NAMED_SECONDS, "that all parts name the broker")
        stream.start_broker()
        stream.finish()
        assert {name: member.exit_codes for name, member in stream.members.items() if member.exit_codes[:-1]} == {}
        stream.must_balance()
