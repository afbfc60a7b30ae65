"""Units: rollouts of one group that are computed together.

Rollouts of a unit share the longest prefix that they have in common, sampled tokens included. A group is one unit
unless its rollouts begin differently, or a micro-batch has no room for all of them; each part then repeats the prefix.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tristream.learner.training.sequences import TrainingSequence, common_prefix_length


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unit:
    """Some rollouts of one group, with the prefix they share."""

    sequences: tuple[TrainingSequence, ...]
    prefix_length: int
    """Tokens of the prefix, at least one."""

    @classmethod
    def of(cls, sequences: Sequence[TrainingSequence]) -> "Unit":
        """The unit of sequences that begin alike."""
        return cls(sequences=tuple(sequences), prefix_length=common_prefix_length(sequences))

    @property
    def tail_lengths(self) -> list[int]:
        """Inputs of each sequence after the prefix."""
        return [sequence.num_inputs - self.prefix_length for sequence in self.sequences]

    @property
    def num_tokens(self) -> int:
        """Tokens the model computes for it."""
        return self.prefix_length + sum(self.tail_lengths)

    def halves(self) -> tuple["Unit", "Unit"]:
        """Two units with half of the rollouts each."""
        middle = len(self.sequences) // 2
        return Unit.of(self.sequences[:middle]), Unit.of(self.sequences[middle:])


def make_units(sequences: Iterable[TrainingSequence]) -> list[Unit]:
    """The units of one group: one, unless its rollouts do not even begin with the same."""
    alike: dict[int, list[TrainingSequence]] = defaultdict(list)
    for sequence in sequences:
        alike[int(sequence.content[0])].append(sequence)
    return [Unit.of(of_beginning) for of_beginning in alike.values()]
