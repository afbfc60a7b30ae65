"""Which source is to be paused or resumed, and why: a pure state machine with a clock that is given.

A source whose newest groups were all dropped for one reason teaches nothing and burns its rows: it is paused. It is
tried again after a while, each time after a longer one, and is paused again after a few equal drops. A source whose
verifier no worker serves waits for it: it is paused too, and goes on once one does.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tristream.dispatcher.recent_groups import RecentGroups
from tristream.wire.events import Command, CommandKind, DropReason

FIRST_PAUSE_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 600.0
FEWEST_DROPS = 4
"""A source that is tried again is not paused for fewer equal drops."""
AUTOMATIC = "automatic"
"""Begins the id of a command that nobody asked for: ``automatic/TRIAL/KIND/SOURCE/NUMBER``."""
WAITING = "waiting"
"""Begins the id of one about a verifier that no worker serves: ``waiting/0/KIND/SOURCE/NUMBER``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A source to pause or to resume."""

    kind: CommandKind
    source: str
    reason: str
    trial: int
    """Pauses of the source since it last was seen to work, this one included; 0 for one that waits."""

    @property
    def id_prefix(self) -> str:
        """Id of its command, up to the number."""
        return f"{AUTOMATIC if self.trial else WAITING}/{self.trial}/{self.kind}/{self.source}/"


@dataclass(slots=True)
class _Source:
    groups: RecentGroups
    since: int = 0
    """Groups with smaller numbers were dispatched before it was resumed the last time."""
    num_trials: int = 0
    """Pauses since it last was seen to work."""
    has_news: bool = False
    """Whether outcomes came since it was looked at."""
    pause_reason: str = ""
    """Why it is paused; empty if it is not."""
    until: float | None = None
    """When it is tried again, by the clock; None while a person has paused it."""
    until_words: str = ""
    is_waiting: bool = False
    """Whether it is paused because no worker serves one of its verifiers."""
    unserved: str = ""
    """Verifiers that it needs and no worker serves, in words; empty if all are served."""


class SourcePauses:
    """Follows the sources of a run.

    Args:
        names: the sources.
        pause_after: equal drops in a row after which a source is paused; 0: never.
        num_in_flight: most groups that can be without outcome.
        clock: seconds, such as ``time.monotonic``.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        pause_after: int,
        num_in_flight: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pause_after = pause_after
        self._clock = clock
        size = num_in_flight + 4 * max(64, pause_after)
        self._sources = {name: _Source(RecentGroups(size)) for name in names}
        self._shown: set[str] = set()

    def observe_dispatched(self, source: str, number: int) -> None:
        """A group of a source is on the log."""
        if source in self._sources:
            self._sources[source].groups.observe_dispatched(number)

    def observe_outcome(self, source: str, number: int, drop_reason: DropReason | None) -> None:
        """A group of a source was trained (no reason) or dropped."""
        if source in self._sources:
            self._sources[source].groups.observe_outcome(number, drop_reason)
            self._sources[source].has_news = True

    def observe_command(self, command: Command) -> None:
        """A command holds: sources are paused, or resumed."""
        for name in command.sources or tuple(self._sources):
            source = self._sources.get(name)
            if source is None:
                continue
            is_automatic = trial_of(command) > 0
            source.is_waiting = command.kind is CommandKind.PAUSE_SOURCE and is_of_waiting(command)
            if not is_of_waiting(command):
                source.num_trials = trial_of(command)
            if command.kind is CommandKind.RESUME_SOURCE:
                source.pause_reason, source.since = "", command.from_number
            else:
                source.pause_reason = command.reason or "a command"
                source.until, source.until_words = None, "until it is resumed by command"
                if is_automatic:
                    self._set_end(source)

    def observe_unserved(self, name: str, unserved: str) -> None:
        """Which verifiers a source needs and no worker serves, in words; empty if all are served."""
        self._sources[name].unserved = unserved

    def waiting(self) -> list[str]:
        """The sources that wait for a verifier."""
        return [name for name, source in self._sources.items() if source.is_waiting]

    def due(self) -> list[Change]:
        """What is to be commanded now."""
        changes = []
        for name, source in self._sources.items():
            if source.is_waiting:
                if not source.unserved:
                    words = f"it is served again; it {source.pause_reason.replace('waits', 'waited', 1)}"
                    changes.append(Change(kind=CommandKind.RESUME_SOURCE, source=name, reason=words, trial=0))
            elif source.pause_reason:
                if source.until is not None and self._clock() >= source.until:
                    words = f"it is tried again; it was paused because {source.pause_reason}"
                    kind = CommandKind.RESUME_SOURCE
                    changes.append(Change(kind=kind, source=name, reason=words, trial=source.num_trials))
            elif source.unserved:
                reason = f"waits for {source.unserved}, which no worker serves"
                changes.append(Change(kind=CommandKind.PAUSE_SOURCE, source=name, reason=reason, trial=0))
            elif self._pause_after and source.has_news:
                source.has_news = False
                if reason := self._find_reason_to_pause(source):
                    kind, trial = CommandKind.PAUSE_SOURCE, source.num_trials + 1
                    changes.append(Change(kind=kind, source=name, reason=reason, trial=trial))
        return changes

    def describe(self) -> str:
        """Which sources are paused, why, and until when; empty if none is."""
        return "; ".join(
            f"source {name} {source.pause_reason}"
            if source.is_waiting
            else f"source {name} is paused {source.until_words}: {source.pause_reason}"
            for name, source in self._sources.items()
            if source.pause_reason
        )

    def measures(self) -> Mapping[str, float]:
        """``paused/SOURCE`` (1 or 0), and ``drops/SOURCE/REASON``: shares of the newest groups."""
        measures = {f"paused/{name}": float(bool(source.pause_reason)) for name, source in self._sources.items()}
        shares = {
            f"drops/{name}/{reason}": share
            for name, source in self._sources.items()
            for reason, share in source.groups.drop_shares().items()
        }
        measures |= dict.fromkeys(self._shown, 0.0) | shares
        self._shown.update(shares)
        return measures

    def _set_end(self, source: _Source) -> None:
        seconds = min(FIRST_PAUSE_SECONDS * 2 ** min(source.num_trials - 1, 10), LONGEST_PAUSE_SECONDS)
        source.until = self._clock() + seconds
        source.until_words = f"until {time.strftime('%H:%M:%S', time.localtime(time.time() + seconds))}"

    def _find_reason_to_pause(self, source: _Source) -> str:
        """Why a source is to be paused, in words; empty if it is not. One that works is on trial no more."""
        groups = source.groups
        reason, length = groups.longest_run(source.since)
        if reason is not None and length >= self._num_allowed(source):
            return f"its last {length} groups were dropped as {reason}"
        if groups.has_trained(source.since) or groups.num_followed(source.since) >= self._pause_after:
            source.num_trials = 0
        return ""

    def _num_allowed(self, source: _Source) -> int:
        """Equal drops in a row after which it is paused; fewer where it is on trial."""
        if source.num_trials:
            return min(self._pause_after, max(FEWEST_DROPS, self._pause_after // 8))
        return self._pause_after


def trial_of(command: Command) -> int:
    """The trial that an automatic command belongs to; 0 for a person's."""
    first, *rest = command.id.split("/")
    return int(rest[0]) if first == AUTOMATIC and rest and rest[0].isdigit() else 0


def is_of_waiting(command: Command) -> bool:
    """Whether a command is about a verifier that no worker serves, or is served again."""
    return command.id.partition("/")[0] == WAITING
