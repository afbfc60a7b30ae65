"""Which sample the n-th training prompt is: a pure function of the weights, the sizes, the seed and n.

Sources take turns by smooth weighted round-robin: after any number of prompts each source has its
share to within a few prompts. Each source is read in epochs, every epoch in a permutation of its own
that depends on the seed, the source's name and the epoch alone, so that adding a source leaves the
order within the others as it is.
"""

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedSource:
    """What mixing needs to know of a source."""

    name: str
    weight: float
    size: int
    """Number of samples, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The sample of one prompt."""

    source: int
    """Index of the source."""
    sample: int
    """Index of the sample in its source."""


class Mixture:
    """The endless sequence of picks.

    Round-robin is computed from the start and remembered, five bytes a prompt, so that any n may be asked
    in any order.

    Example:
        >>> sources = [MixedSource(name="a", weight=2, size=9), MixedSource(name="b", weight=1, size=9)]
        >>> [Mixture(sources, seed=1).pick(n).source for n in range(6)]
        [0, 1, 0, 0, 1, 0]
    """

    def __init__(self, sources: Sequence[MixedSource], seed: int) -> None:
        if not sources or any(source.size < 1 or source.weight <= 0 for source in sources):
            raise ValueError("a mixture needs sources with a weight above 0 and at least one sample")
        self._sources = tuple(sources)
        self._seed = seed
        self._weights = _integer_weights([source.weight for source in sources])
        self._credits = [0] * len(sources)
        self._counts = [0] * len(sources)
        self._turns = array("H")
        """Source of each prompt so far."""
        self._ranks = array("Q")
        """How many prompts of the same source came before."""
        self._orders: dict[int, tuple[int, Sequence[int]]] = {}

    def pick(self, number: int) -> Pick:
        """The sample of prompt ``number`` >= 0."""
        while len(self._turns) <= number:
            self._take_turn()
        source = self._turns[number]
        epoch, position = divmod(self._ranks[number], self._sources[source].size)
        return Pick(source=source, sample=self._order(source, epoch)[position])

    def _take_turn(self) -> None:
        for source, weight in enumerate(self._weights):
            self._credits[source] += weight
        chosen = max(range(len(self._credits)), key=self._credits.__getitem__)
        self._credits[chosen] -= sum(self._weights)
        self._turns.append(chosen)
        self._ranks.append(self._counts[chosen])
        self._counts[chosen] += 1

    def _order(self, source: int, epoch: int) -> Sequence[int]:
        known_epoch, order = self._orders.get(source, (-1, ()))
        if known_epoch != epoch:
            order = epoch_order(self._sources[source], self._seed, epoch)
            self._orders[source] = (epoch, order)
        return order


def epoch_order(source: MixedSource, seed: int, epoch: int) -> Sequence[int]:
    """The permutation of a source's samples in one epoch."""
    order = array("L", range(source.size))
    # A string seeds through SHA-512, which does not depend on the process as hash() does.
    random.Random(f"{seed}/{source.name}/{epoch}").shuffle(order)
    return order


def _integer_weights(weights: Sequence[float]) -> list[int]:
    """Exact proportions as integers, so that credits neither drift nor depend on rounding."""
    fractions = [max(Fraction(weight).limit_denominator(10**6), Fraction(1, 10**6)) for weight in weights]
    scale = lcm(*(fraction.denominator for fraction in fractions))
    return [int(fraction * scale) for fraction in fractions]
