"""What verifiers declare of themselves, told by children: their code never runs in the pool's own process."""

import selectors
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

from tristream.runtime.errors import UserError
from tristream.verifiers.pool.channel import Channel, NonsenseError
from tristream.verifiers.pool.fork_client import START_SECONDS, ForkClient
from tristream.verifiers.pool.lane_spec import LaneSpec
from tristream.verifiers.pool.tasks import PoolError, VerifierFacts
from tristream.verifiers.pool.verdicts import read_facts, read_refusal
from tristream.wire.verifiers import versioned_name


def describe(fork_client: ForkClient, specs: Iterable[LaneSpec]) -> dict[str, VerifierFacts]:
    """Facts by ``NAME@VERSION``, with the limits of the specs; each spec is loaded by a child of its own.

    Raises:
        UserError: a verifier cannot be loaded, or calls itself something else.
        PoolError: the process that loaded one died, or took too long.
    """
    with selectors.DefaultSelector() as selector:
        # Numbers below 1 are never those of children that judge.
        for number, spec in enumerate(specs):
            channel, progress = fork_client.spawn(-number, spec)
            progress.close()
            selector.register(channel, selectors.EVENT_READ, (-number, spec))
        try:
            return _gather(fork_client, selector)
        finally:
            for key in list(selector.get_map().values()):
                _dismiss(fork_client, key.data[0], key.fileobj)


def plan_lanes(specs: Iterable[LaneSpec], facts: Mapping[str, VerifierFacts]) -> list[LaneSpec]:
    """Lanes of verifiers with the same needs; those that a spec kept apart stay apart."""
    lanes: list[LaneSpec] = []
    for spec in specs:
        groups: dict[tuple[object, ...], dict[str, str]] = {}
        for name, entry_point in spec.entry_points.items():
            groups.setdefault((facts[name].needs, facts[name].is_async), {})[name] = entry_point
        for entry_points in groups.values():
            told = facts[next(iter(entry_points))]
            lanes.append(replace(spec, entry_points=entry_points, needs=told.needs, is_async=told.is_async))
    return lanes


def _gather(fork_client: ForkClient, selector: selectors.BaseSelector) -> dict[str, VerifierFacts]:
    facts: dict[str, VerifierFacts] = {}
    until_seconds = time.monotonic() + START_SECONDS
    while selector.get_map():
        events = selector.select(until_seconds - time.monotonic())
        if not events:
            raise PoolError(f"verifiers are not loaded after {START_SECONDS:.0f} s")
        for key, _ in events:
            number, spec = key.data
            told = _receive(key.fileobj, spec)
            if told is not None:
                facts |= told
                selector.unregister(key.fileobj)
                _dismiss(fork_client, number, key.fileobj)
    return facts


def _receive(channel: object, spec: LaneSpec) -> dict[str, VerifierFacts] | None:
    """The facts that a child told; None if they are not complete yet."""
    assert isinstance(channel, Channel)
    names = ", ".join(spec.entry_points)
    try:
        for _, content in channel.receive():
            refusal = read_refusal(content)
            if "what" in refusal:
                raise UserError(**refusal)
            if refusal:
                raise UserError(refusal["failure"], where=names, remedy="mend its module")
            told = {versioned_name(facts.name, facts.version): facts for facts in read_facts(content)}
            if told.keys() != spec.entry_points.keys():
                raise NonsenseError("it told of other verifiers")
            return {name: replace(facts, limits=spec.limits_of(facts.limits)) for name, facts in told.items()}
    except EOFError:
        raise PoolError(f"the process that loads {names} died") from None
    except NonsenseError as error:
        raise PoolError(f"the process that loads {names}: {error}") from None
    return None


def _dismiss(fork_client: ForkClient, number: int, channel: object) -> None:
    assert isinstance(channel, Channel)
    fork_client.signal(number, signal.SIGKILL)
    channel.close()
