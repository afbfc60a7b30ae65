"""Statuses of parts for tests."""

from collections.abc import Mapping

from tristream.wire.events import Part, PartState, PartStatus


def make_status(
    part: Part,
    instance: str = "host-1",
    *,
    state: PartState = PartState.READY,
    waiting_for: str = "",
    started_ns: int = 0,
    created_ns: int = 0,
    address: str = "",
    measures: Mapping[str, float] | None = None,
    epoch: int = 0,
) -> PartStatus:
    return PartStatus(
        run="demo",
        part=part,
        instance=instance,
        state=state,
        waiting_for=waiting_for,
        since_ns=created_ns,
        started_ns=started_ns,
        created_ns=created_ns,
        address=address,
        measures=measures or {},
        epoch=epoch,
    )
