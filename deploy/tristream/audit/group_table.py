"""What the log says of the groups of one numbering, in about 50 bytes a group and 25 a rollout.

Row n is group n. Of two equal facts the first on the log counts, as in the join.
"""

from array import array
from collections.abc import Iterable

from tristream.assembler.facts import RolloutFact
from tristream.wire.events import DropReason, Fate, Group, Outcome, Prompt
from tristream.wire.ledger import IntervalSet

NO_ROLLOUT = -2
"""Instead of the oldest version of a rollout that is not on the log."""
MOST_JUMP = 2**20
"""A number may be so far beyond twice the known ones; one that is farther is named and takes no room."""
MOST_NAMED = 10_000
"""Contradictions that are kept in words."""
FATES: tuple[Fate | None, ...] = (None, *Fate)
REASONS: tuple[DropReason | None, ...] = (None, *DropReason)
_MASK = 2**64 - 1


class Mark:
    """Bits for what is true of a group; plain integers, because enumerations are slow."""

    PROMPT = 1
    CONFLICT = 2
    """Prompts of two digests."""
    OTHER_SIZE = 4
    EXCUSED = 8
    """The end of a log was lost, and what the log does not say of this group may have been there."""
    ZERO_VARIANCE = 16
    """Its outcome says so."""
    STRANGE_ROLLOUT = 32
    """A rollout of another digest than its prompt's; one that comes after the outcome changes nothing."""


class Worth:
    """Bits for what is true of a rollout."""

    ANSWERED = 1
    """It ended without an error and something was sampled, so that verifiers judge it."""
    SCORED = 2
    """All scores that count are on the log."""
    COMPLETE = 4
    """They make a final reward."""
    IN_OUTCOME = 8
    VALID = 16
    """Its outcome says that it has a reward."""


class GroupTable:
    """Facts by group number, and by rollout at ``number * group_size + index``."""

    def __init__(self, group_size: int) -> None:
        self.group_size = group_size
        self.num_rows = 0
        self.marks = bytearray()
        self.fates = bytearray()
        """Position in FATES."""
        self.reasons = bytearray()
        """Position in REASONS."""
        self.steps = array("I")
        self.oldest_versions = array("i")
        """As the outcome says."""
        self.groups = array("Q")
        """Hash of what the prompt says of the group."""
        self.digests = array("Q")
        self.contents = array("Q")
        """Hash of what the outcome says of its rollouts."""
        self.specs = array("H")
        self.sources = array("H")
        self.worths = bytearray()
        self.versions = array("i")
        """Oldest version of the tokens of each rollout."""
        self.final_rewards = array("d")
        """By the scores on the log."""
        self.rewards = array("d")
        """As the outcome says."""
        self.ages = array("H")
        """As the outcome says."""
        self.contradictions: dict[int, set[str]] = {}
        """Outcomes of groups that have several, in words."""
        self.strays: set[int] = set()
        """Numbers that are far beyond all others."""
        self.forgotten = IntervalSet()
        """Numbers trained on an earlier log that the ledger at the begin of a later one does not know."""

    def has_room(self, number: int, *, names_strays: bool = True) -> bool:
        """Whether the table has a row for a number, or gets one; one that gets none is a stray, unless told not to."""
        if number < self.num_rows:
            return True
        if number > 2 * self.num_rows + MOST_JUMP:
            if names_strays and len(self.strays) < MOST_NAMED:
                self.strays.add(number)
            return False
        self._grow(number + 1)
        return True

    def observe_prompt(self, prompt: Prompt, spec: int, source: int) -> None:
        """A prompt is on the log."""
        number = prompt.group.number
        if not self.has_room(number):
            return
        digest = _hash(prompt.digest)
        if not self.marks[number] & Mark.PROMPT:
            self.marks[number] |= Mark.PROMPT
            self.groups[number] = _hash(prompt.group)
            self.digests[number], self.specs[number], self.sources[number] = digest, spec, source
        elif self.digests[number] != digest:
            self.marks[number] |= Mark.CONFLICT
        if prompt.group.size != self.group_size:
            self.marks[number] |= Mark.OTHER_SIZE

    def has_group(self, group: Group) -> bool:
        """Whether a group is the one of its number, as the prompt says; without one, any may be."""
        return not self.marks[group.number] & Mark.PROMPT or self.groups[group.number] == _hash(group)

    def observe_rollout(self, fact: RolloutFact) -> None:
        """A rollout is on the log, of a number that has a row; its prompt was read before."""
        number, index = fact.group.number, fact.rollout.training.index
        if fact.digest and self.marks[number] & Mark.PROMPT and self.digests[number] != _hash(fact.digest):
            self.marks[number] |= Mark.STRANGE_ROLLOUT
            return
        if not self.has_group(fact.group):
            return
        if index >= self.group_size:
            self.marks[number] |= Mark.OTHER_SIZE
            return
        place = number * self.group_size + index
        if self.versions[place] == NO_ROLLOUT:
            self.versions[place] = fact.rollout.oldest_version
            if fact.rollout.is_judged and not fact.rollout.has_failed:
                self.worths[place] |= Worth.ANSWERED

    def observe_final_reward(self, place: int, value: float | None) -> None:
        """All scores of a rollout that count are on the log; None if they make no final reward."""
        self.worths[place] |= Worth.SCORED if value is None else Worth.SCORED | Worth.COMPLETE
        self.final_rewards[place] = value or 0.0

    def observe_outcome(self, outcome: Outcome) -> None:
        """An outcome is on the log."""
        number, content = outcome.group.number, content_of(outcome)
        if not self.has_room(number):
            return
        if self.fates[number]:
            if content != self.contents[number]:
                self._note_contradiction(outcome)
            return
        self.fates[number] = FATES.index(outcome.fate)
        self.reasons[number] = REASONS.index(outcome.drop_reason)
        self.steps[number] = min(outcome.step, 2**32 - 1)
        self.oldest_versions[number] = min(outcome.oldest_version, 2**31 - 1)
        self.contents[number] = content
        if outcome.has_zero_variance:
            self.marks[number] |= Mark.ZERO_VARIANCE
        for rollout in outcome.rollouts:
            if rollout.index >= self.group_size:
                self.marks[number] |= Mark.OTHER_SIZE
                continue
            place = number * self.group_size + rollout.index
            self.worths[place] |= Worth.IN_OUTCOME | Worth.VALID if rollout.valid else Worth.IN_OUTCOME
            self.rewards[place] = rollout.reward
            self.ages[place] = min(rollout.age, 2**16 - 1)

    def begin_log(self, settled: IntervalSet, first_excused: int) -> None:
        """Another log begins, from a ledger: what is not settled there is dispatched anew, and has no facts yet.

        Args:
            settled: numbers that the ledger settles.
            first_excused: settled groups from this number on may miss facts, which were lost with the log before.
        """
        position = 0
        for interval in settled.intervals:
            if not self.has_room(interval.end - 1):
                break
            self._forget(range(position, interval.start))
            for number in range(max(interval.start, first_excused), interval.end):
                self.marks[number] |= Mark.EXCUSED
            position = interval.end
        self._forget(range(position, self.num_rows))

    def excuse(self, numbers: Iterable[int]) -> None:
        """What the log does not say of these groups may have been lost."""
        for number in numbers:
            self.marks[number] |= Mark.EXCUSED

    def fate(self, number: int) -> Fate | None:
        """What became of a group; None if that is open."""
        return FATES[self.fates[number]] if number < self.num_rows else None

    def reason(self, number: int) -> DropReason | None:
        """Why a group was dropped."""
        return REASONS[self.reasons[number]]

    def numbers_with(self, fate: Fate) -> list[int]:
        """Numbers of the groups of a fate, ascending."""
        wanted = FATES.index(fate)
        return [number for number in range(self.num_rows) if self.fates[number] == wanted]

    def _note_contradiction(self, outcome: Outcome) -> None:
        number = outcome.group.number
        if len(self.contradictions) >= MOST_NAMED and number not in self.contradictions:
            return
        first = describe(self.fate(number), self.steps[number], self.reason(number))
        second = describe(outcome.fate, outcome.step, outcome.drop_reason)
        texts = self.contradictions.setdefault(number, {first})
        texts.add(second if second not in texts else f"{second} with other rewards")

    def _forget(self, numbers: range) -> None:
        size = self.group_size
        for number in numbers:
            if number >= self.num_rows:
                return
            if self.fate(number) is Fate.TRAINED:
                self.forgotten.add(number)
            self.marks[number] = self.fates[number] = self.reasons[number] = 0
            self.contradictions.pop(number, None)
            for place in range(number * size, number * size + size):
                self.worths[place], self.versions[place] = 0, NO_ROLLOUT

    def _grow(self, num_rows: int) -> None:
        room = len(self.marks)
        if num_rows > room:
            more = max(num_rows, 2 * room, 64) - room
            for flags in (self.marks, self.fates, self.reasons):
                flags.extend(bytes(more))
            of_groups = (self.steps, self.oldest_versions, self.groups, self.digests, self.contents, self.specs)
            for integers in (*of_groups, self.sources):
                integers.frombytes(bytes(more * integers.itemsize))
            more *= self.group_size
            self.worths.extend(bytes(more))
            for reals in (self.final_rewards, self.rewards):
                reals.frombytes(bytes(more * reals.itemsize))
            self.ages.frombytes(bytes(more * self.ages.itemsize))
            self.versions.extend(array("i", [NO_ROLLOUT]) * more)
        self.num_rows = num_rows


def content_of(outcome: Outcome) -> int:
    """Hash of everything that two outcomes of one group must have in common."""
    rollouts = tuple((r.index, r.valid, r.reward, r.advantage, r.age) for r in outcome.rollouts)
    facts = (outcome.fate, outcome.step, outcome.drop_reason, outcome.oldest_version, outcome.has_zero_variance)
    return hash((*facts, rollouts)) & _MASK


def describe(fate: Fate | None, step: int, reason: DropReason | None) -> str:
    """An outcome in words."""
    if fate is Fate.DROPPED:
        return f"dropped as {reason}"
    return f"trained at step {step}" if fate is Fate.TRAINED else str(fate)


def _hash(what: str | Group) -> int:
    return hash(what) & _MASK
