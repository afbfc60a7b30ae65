"""How many different facts the log holds by topic, to be compared with the rows of a database; a bit a fact."""

from typing import Any

from tristream.assembler.facts import RewardFact, RolloutFact
from tristream.runtime.bus.protocol import Record
from tristream.wire.events import Command, Group, Outcome, Prompt, Split, StepReport

MOST_BITS = 2**33
"""Numbers beyond this are kept one by one."""
BEYOND = 2**70
"""Places of rollouts that no group of the run has begin here."""


class _BitSet:
    """A set of small numbers."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self._strays: set[int] = set()
        self.size = 0

    def add(self, number: int) -> None:
        position, bit = number >> 3, 1 << (number & 7)
        if number >= MOST_BITS or position > 4 * len(self._bits) + 2**20:
            self.size += number not in self._strays
            self._strays.add(number)
            return
        if position >= len(self._bits):
            self._bits.extend(bytes(max(position + 1, 2 * len(self._bits)) - len(self._bits)))
        if not self._bits[position] & bit:
            self._bits[position] |= bit
            self.size += 1


class IdentityCounts:
    """Counts what the tables of the same names keep one row of.

    Args:
        group_size: rollouts of a training group.
    """

    def __init__(self, group_size: int) -> None:
        self._group_size = group_size
        self._terms: dict[tuple[str, str], int] = {}
        self._seen: dict[tuple[str, tuple[int, ...], int], _BitSet] = {}
        self._others: dict[str, set[object]] = {"steps": set(), "commands": set()}

    def observe(self, record: Record[Any]) -> None:
        """Take a record."""
        match record.event:
            case RolloutFact() as fact:
                self._add(record.topic, fact.group, self._place(fact.group, fact.rollout.training.index))
            case RewardFact() as fact:
                term = self._terms.setdefault((fact.term_id, fact.version), len(self._terms))
                self._add(record.topic, fact.group, self._place(fact.group, fact.index), term)
            case Prompt() as prompt:
                self._add(record.topic, prompt.group, prompt.group.number)
            case Outcome() as outcome:
                self._add(record.topic, outcome.group, outcome.group.number)
            case StepReport() as report:
                self._others["steps"].add(report.step)
            case Command() as command:
                self._others["commands"].add(command.id)

    def by_topic(self) -> dict[str, int]:
        """Different facts by topic name."""
        counts = {"prompts": 0, "rollouts": 0, "rewards": 0, "outcomes": 0}
        for (topic, _, _), bits in self._seen.items():
            counts[topic] += bits.size
        return counts | {name: len(found) for name, found in self._others.items()}

    def _place(self, group: Group, index: int) -> int:
        size = self._group_size if group.split is Split.TRAIN else 1
        return group.number * size + index if index < size else BEYOND + (group.number << 32) + index

    def _add(self, topic: str, group: Group, place: int, what: int = 0) -> None:
        round_ = () if group.split is Split.TRAIN else (group.eval_step, group.eval_attempt)
        key = (topic, round_, what)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _BitSet()
        seen.add(place)
