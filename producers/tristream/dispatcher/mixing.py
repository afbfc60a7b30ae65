"""Which sample the n-th training prompt is: a pure function of the weights, the sizes, the seed, the pauses and n.

Sources take turns by smooth weighted round-robin: after any number of prompts each source has its
share to within a few prompts. Each source is read in epochs, every epoch in a permutation of its own
that depends on the seed, the source's name and the epoch alone, so that adding a source leaves the
order within the others as it is. Where a source is paused or resumed, the round begins anew among those that
are not paused, and each source goes on in its epoch where it was.
"""

import random
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

MOST_TURNS = 2**16
"""Longest round. Weights whose shares would need a longer one are rounded to it."""


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


class _Cycle:
    """The turns of some sources: they repeat after one round. Turns are computed as far as they are asked for."""

    def __init__(self, weights: Sequence[int]) -> None:
        self.weights = weights
        """Turns of each source in a round; 0 for one that takes no part."""
        self.length = sum(weights)
        self._credits = [0] * len(weights)
        self._counts = [0] * len(weights)
        self._turns = array("H")
        self._ranks = array("I")
        """Turns of the same source before, in this round."""

    def turn(self, number: int) -> tuple[int, int]:
        """Source of the ``number``-th turn, from 0, and how many turns it had before."""
        num_rounds, place = divmod(number, self.length)
        while len(self._turns) <= place:
            self._take_turn()
        source = self._turns[place]
        return source, num_rounds * self.weights[source] + self._ranks[place]

    def counts(self, number: int) -> list[int]:
        """How often each source had its turn in the first ``number`` turns."""
        num_rounds, place = divmod(number, self.length)
        self.turn(place)
        counts = [num_rounds * weight for weight in self.weights]
        for source in self._turns[:place]:
            counts[source] += 1
        return counts

    def _take_turn(self) -> None:
        for source, weight in enumerate(self.weights):
            self._credits[source] += weight
        active = [source for source, weight in enumerate(self.weights) if weight > 0]
        chosen = max(active, key=self._credits.__getitem__)
        self._credits[chosen] -= self.length
        self._turns.append(chosen)
        self._ranks.append(self._counts[chosen])
        self._counts[chosen] += 1


@dataclass(frozen=True, slots=True)
class _Segment:
    """Prompts from a number on, among which the same sources take turns."""

    start: int
    paused: frozenset[int]
    cycle: _Cycle | None
    """None if every source is paused."""
    counts: Sequence[int]
    """Prompts of each source before."""


class Mixture:
    """The endless sequence of picks; any number may be asked in any order, in constant time and memory.

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
        self._cycles: dict[frozenset[int], _Cycle] = {}
        self._orders: dict[int, tuple[int, Sequence[int]]] = {}
        self._segments = [_Segment(0, frozenset(), self._cycle(frozenset()), [0] * len(sources))]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sources."""
        return tuple(source.name for source in self._sources)

    def pause(self, names: Iterable[str], from_number: int) -> None:
        """Leave sources out from a prompt number on."""
        self._change(from_number, self._segments[-1].paused | self._indices(names))

    def resume(self, names: Iterable[str], from_number: int) -> None:
        """Take sources in again from a prompt number on."""
        self._change(from_number, self._segments[-1].paused - self._indices(names))

    def has_source(self, number: int) -> bool:
        """Whether there is a prompt of this number: not while every source is paused."""
        return self._segment(number).cycle is not None

    def pick(self, number: int) -> Pick:
        """The sample of prompt ``number`` >= 0.

        Raises:
            ValueError: every source is paused there.
        """
        segment = self._segment(number)
        if segment.cycle is None:
            raise ValueError(f"every source is paused at prompt {number}")
        source, rank = segment.cycle.turn(number - segment.start)
        epoch, position = divmod(segment.counts[source] + rank, self._sources[source].size)
        return Pick(source=source, sample=self._order(source, epoch)[position])

    def _segment(self, number: int) -> _Segment:
        return self._segments[bisect_right(self._segments, number, key=lambda segment: segment.start) - 1]

    def _indices(self, names: Iterable[str]) -> frozenset[int]:
        wanted = set(names)
        return frozenset(index for index, source in enumerate(self._sources) if source.name in wanted)

    def _change(self, start: int, paused: frozenset[int]) -> None:
        last = self._segments[-1]
        if start < last.start:
            raise ValueError(f"the sources from prompt {last.start} on are settled, and {start} is before it")
        if paused == last.paused:
            return
        counts = last.counts
        if last.cycle is not None:
            counts = [a + b for a, b in zip(counts, last.cycle.counts(start - last.start), strict=True)]
        self._segments.append(_Segment(start, paused, self._cycle(paused), counts))

    def _cycle(self, paused: frozenset[int]) -> _Cycle | None:
        if len(paused) == len(self._sources):
            return None
        if paused not in self._cycles:
            weights = [0 if index in paused else weight for index, weight in enumerate(self._weights)]
            divisor = gcd(*weights)
            self._cycles[paused] = _Cycle([weight // divisor for weight in weights])
        return self._cycles[paused]

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
    """Proportions as integers: exact ones, or if a round of these is too long, the nearest that fit into one."""
    fractions = [max(Fraction(weight).limit_denominator(10**6), Fraction(1, 10**6)) for weight in weights]
    scale = lcm(*(fraction.denominator for fraction in fractions))
    exact = [int(fraction * scale) for fraction in fractions]
    exact = [weight // gcd(*exact) for weight in exact]
    if sum(exact) <= MOST_TURNS:
        return exact
    return [max(1, round(weight * MOST_TURNS / sum(exact))) for weight in exact]
