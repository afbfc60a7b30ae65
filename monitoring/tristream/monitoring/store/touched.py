"""What a flush touched: the keys whose closed figures must be computed anew."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tristream.runtime.bus.protocol import Record
from tristream.wire.events import Fate, Outcome, Prompt, Reward, Rollout, Split, StepReport

MINUTE_NS = 60 * 10**9
GROUPS_PER_BLOCK = 4096
"""As ``raw_settled_blocks`` counts."""


@dataclass(slots=True)
class Touched:
    """Keys of records that were written, or will be written again; more than changed do no harm."""

    numbers: set[int] = field(default_factory=set)
    """Of training groups of which anything came."""
    blocks: set[int] = field(default_factory=set)
    """Of training groups whose prompt or outcome came."""
    steps: set[int] = field(default_factory=set)
    """Whose report came."""
    drop_times_ns: set[int] = field(default_factory=set)
    """When training groups were dropped."""
    rounds: set[tuple[int, int]] = field(default_factory=set)
    """Step and attempt of held-out rounds."""
    minutes: set[int] = field(default_factory=set)
    """Since the epoch, in which rollouts or rewards were made."""

    def add(self, records: Iterable[Record[Any]]) -> None:
        """Note the keys of records."""
        for record in records:
            event = record.event
            if isinstance(event, Prompt | Rollout | Reward | Outcome):
                self._add_of_group(event)
            elif isinstance(event, StepReport):
                self.steps.add(event.step)

    @property
    def has_steps(self) -> bool:
        """Whether steps may have to be closed."""
        return bool(self.steps or self.numbers or self.drop_times_ns)

    @property
    def has_others(self) -> bool:
        """Whether something else has to be."""
        return bool(self.rounds or self.blocks or self.minutes)

    def forget_steps(self) -> None:
        """The steps are closed."""
        for keys in (self.steps, self.numbers, self.drop_times_ns):
            keys.clear()

    def forget_others(self) -> None:
        """The others are."""
        for keys in (self.rounds, self.blocks, self.minutes):
            keys.clear()

    def _add_of_group(self, event: Prompt | Rollout | Reward | Outcome) -> None:
        group = event.group
        if isinstance(event, Rollout | Reward):
            self.minutes.add(event.created_ns // MINUTE_NS)
        if group.split is not Split.TRAIN:
            self.rounds.add((group.eval_step, group.eval_attempt))
            return
        self.numbers.add(group.number)
        if isinstance(event, Prompt | Outcome):
            self.blocks.add(group.number // GROUPS_PER_BLOCK)
        if isinstance(event, Outcome) and event.fate is Fate.DROPPED:
            self.drop_times_ns.add(event.created_ns)
