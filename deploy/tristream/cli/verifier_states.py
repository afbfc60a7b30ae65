"""What becomes of each verifier version of a run: a pure function of its commands and of what its processes tell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tristream.wire.events import Command, CommandKind, Part, PartState, PartStatus
from tristream.wire.events.parts import NEEDED_VERIFIERS
from tristream.wire.verifiers import versioned_name

SILENT_SECONDS = 20.0
"""A process that has told nothing for so long, while others did, does not work."""


class VerifierState(StrEnum):
    """What a verifier version is for."""

    ACTIVE = "active"
    """Its scores count, in one source at least."""
    SHADOW = "shadow"
    """It scores, and counts nowhere."""
    RETIRING = "retiring"
    """It finishes what was dispatched before it was taken out."""
    RETIRED = "retired"
    """It scores no more."""
    UNUSED = "unused"
    """It is served, and nobody asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a version does in one source."""

    mode: VerifierState
    """``ACTIVE`` or ``SHADOW``."""
    from_number: int = 0
    """Training prompt number from which on it is so."""
    weights: Mapping[str, float] | None = None
    """Weight by component; None for those of the rows."""


@dataclass(slots=True, kw_only=True)
class VerifierStanding:
    """One verifier version of a run."""

    verifier: str
    version: str
    added: Command | None = None
    """The answered command that added it; None for those of the run file."""
    retired_from: int | None = None
    """Training prompt number from which on nothing asks for it; None if it is not retired."""
    roles: dict[str, Role] = field(default_factory=dict)
    """By source."""
    num_workers: int = 0
    num_scored: int = 0
    """Rollouts that the known processes have scored with it."""

    @property
    def name(self) -> str:
        """``NAME@VERSION``."""
        return versioned_name(self.verifier, self.version)

    @property
    def state(self) -> VerifierState:
        """What it is for, in all sources together."""
        if any(role.mode is VerifierState.ACTIVE for role in self.roles.values()):
            return VerifierState.ACTIVE
        if self.retired_from is not None:
            is_served = self.num_workers > 0 and self.added is not None
            return VerifierState.RETIRING if is_served else VerifierState.RETIRED
        return VerifierState.SHADOW if self.added is not None else VerifierState.UNUSED


def find_standings(
    commands: Iterable[Command], statuses: Sequence[PartStatus], source_names: Sequence[str]
) -> list[VerifierStanding]:
    """Every verifier version of a run, by name.

    Args:
        commands: those that hold, in the order of the log.
        statuses: the newest of each process.
        source_names: the sources of the run.
    """
    standings: dict[str, VerifierStanding] = {}
    for command in commands:
        if command.kind in (CommandKind.ADD, CommandKind.PROMOTE, CommandKind.DEMOTE, CommandKind.RETIRE):
            _take_command(standings, command, source_names)
    _take_needs(standings, statuses)
    now_ns = max((status.created_ns for status in statuses), default=0)
    for status in statuses:
        for load in status.verifiers:
            standing = _standing_of(standings, load.verifier, load.version)
            standing.num_scored += load.num_scored
            is_heard = now_ns - status.created_ns < SILENT_SECONDS * 1e9
            standing.num_workers += status.state is not PartState.DONE and is_heard
    return [standings[name] for name in sorted(standings)]


def _standing_of(standings: dict[str, VerifierStanding], verifier: str, version: str) -> VerifierStanding:
    name = versioned_name(verifier, version)
    return standings.setdefault(name, VerifierStanding(verifier=verifier, version=version))


def _take_command(standings: dict[str, VerifierStanding], command: Command, source_names: Sequence[str]) -> None:
    standing = _standing_of(standings, command.verifier, command.version)
    sources = command.sources or source_names
    shadow = Role(mode=VerifierState.SHADOW, from_number=command.from_number)
    match command.kind:
        case CommandKind.ADD:
            standing.added, standing.retired_from = command, None
            standing.roles |= dict.fromkeys(sources, shadow)
        case CommandKind.PROMOTE:
            active = Role(mode=VerifierState.ACTIVE, from_number=command.from_number, weights=command.weights)
            for other in standings.values():
                if other.verifier == command.verifier and other is not standing:
                    _take_out(other, sources, command.from_number)
            standing.roles |= dict.fromkeys(sources, active)
        case CommandKind.DEMOTE:
            _take_out(standing, sources, command.from_number)
        case _:
            standing.roles, standing.retired_from = {}, command.from_number


def _take_out(standing: VerifierStanding, sources: Iterable[str], from_number: int) -> None:
    """In some sources a version counts no more; where it was added it goes on as a shadow."""
    for source in sources:
        role = standing.roles.get(source)
        if role is not None and role.mode is VerifierState.ACTIVE:
            del standing.roles[source]
            if standing.added is not None and (not standing.added.sources or source in standing.added.sources):
                standing.roles[source] = Role(mode=VerifierState.SHADOW, from_number=from_number)


def _take_needs(standings: dict[str, VerifierStanding], statuses: Sequence[PartStatus]) -> None:
    """What the rows of each source ask for, as the newest dispatcher tells."""
    dispatchers = [status for status in statuses if status.part is Part.DISPATCHER]
    newest = max(dispatchers, key=lambda status: (status.epoch, status.created_ns), default=None)
    for name, value in newest.measures.items() if newest is not None else ():
        source, separator, versioned = name.removeprefix(NEEDED_VERIFIERS).rpartition("/")
        if name.startswith(NEEDED_VERIFIERS) and separator and value:
            verifier, _, version = versioned.partition("@")
            roles = _standing_of(standings, verifier, version).roles
            if source not in roles or roles[source].mode is not VerifierState.ACTIVE:
                roles[source] = Role(mode=VerifierState.ACTIVE)
