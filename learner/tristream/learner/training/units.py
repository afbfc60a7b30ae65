"""Units: rollouts of one group that are computed together, and how they are spread over micro-batches.

Rollouts of a unit share the longest prefix that they have in common, sampled tokens included. A group is one unit
unless its rollouts begin differently, or there are more micro-batches than units can fill; each part then repeats
the prefix. The result depends on nothing but the input.
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


def plan_units(units: Sequence[Unit], num_micro_batches: int) -> list[list[Unit]]:
    """Distribute units over exactly ``num_micro_batches`` micro-batches, balanced by tokens.

    Returns:
        The units of each micro-batch, in the order given; a list is empty where there are fewer rollouts than
        micro-batches.
    """
    units = _split(units, num_micro_batches)
    bins: list[list[int]] = [[] for _ in range(num_micro_batches)]
    loads = [0] * num_micro_batches
    for index in sorted(range(len(units)), key=lambda i: (-units[i].num_tokens, i)):
        lightest = min(range(num_micro_batches), key=lambda b: (loads[b], len(bins[b]), b))
        bins[lightest].append(index)
        loads[lightest] += units[index].num_tokens
    return [[units[index] for index in sorted(indices)] for indices in bins]


def _split(units: Sequence[Unit], num_wanted: int) -> list[Unit]:
    """Halve the largest units until there are enough, or each is one rollout."""
    parts = list(units)
    while len(parts) < num_wanted:
        divisible = [index for index, unit in enumerate(parts) if len(unit.sequences) > 1]
        if not divisible:
            break
        largest = max(divisible, key=lambda index: parts[index].num_tokens)
        parts[largest : largest + 1] = parts[largest].halves()
    return parts
