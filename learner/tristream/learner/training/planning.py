"""Plans: units spread over micro-batches, within a budget of tokens or over a given number.

A micro-batch costs what packing computes: the prefix of each unit once, and all tails. A unit that is split repeats
its prefix. All of it is mathematics on lengths, and the result depends on nothing but the input.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from tristream.learner.training.units import Unit

LOG = logging.getLogger("tristream.learner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some rollouts of one unit, to be computed together."""

    unit: int
    """Index of the unit."""
    rollouts: tuple[int, ...]
    """Indices of its rollouts in the unit, in any order."""
    num_tokens: int
    """Prefix and tails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitLengths:
    """Lengths of a unit in tokens."""

    prefix: int
    tails: tuple[int, ...]

    def piece(self, unit: int, rollouts: Iterable[int]) -> Piece:
        """These of its rollouts, if its index is ``unit``."""
        chosen = tuple(rollouts)
        return Piece(unit=unit, rollouts=chosen, num_tokens=self.prefix + sum(self.tails[index] for index in chosen))


def plan_within(units: Sequence[Unit], max_tokens: int) -> list[list[Unit]]:
    """Spread units over few micro-batches, none of which computes more than ``max_tokens``.

    A single rollout that is longer has a micro-batch of its own, which the log says once.

    Returns:
        The units of each micro-batch; none is empty, and there are none without units.
    """
    lengths = [UnitLengths(prefix=unit.prefix_length, tails=tuple(unit.tail_lengths)) for unit in units]
    plan = plan_lengths(lengths, max_tokens)
    longest = max((piece.num_tokens for pieces in plan for piece in pieces), default=0)
    if longest > max_tokens:
        _say_too_long(max_tokens)
    return [[_take(units[piece.unit], piece) for piece in pieces] for pieces in plan]


def plan_units(units: Sequence[Unit], num_micro_batches: int) -> list[list[Unit]]:
    """Spread units over exactly ``num_micro_batches`` micro-batches, balanced by tokens.

    Returns:
        The units of each micro-batch, in the order given; a list is empty where there are fewer rollouts than
        micro-batches.
    """
    parts = _halve_largest(units, num_micro_batches)
    spread = _spread([part.num_tokens for part in parts], num_micro_batches)
    return [[parts[index] for index in indices] for indices in spread]


def plan_lengths(units: Sequence[UnitLengths], max_tokens: int) -> list[list[Piece]]:
    """Spread units over micro-batches within a budget, as ``plan_within`` does.

    Two plans are made, one that splits no unit that fits into the budget, and one that fills micro-batches up with
    parts of units. The first is taken unless the second needs fewer and the first exceeds the bound from below by
    more than one; its loads are then evened out.
    """
    alone = [
        [unit.piece(number, [index])]
        for number, unit in enumerate(units)
        for index, tail in enumerate(unit.tails)
        if unit.prefix + tail > max_tokens
    ]
    fitting = [[i for i, tail in enumerate(unit.tails) if unit.prefix + tail <= max_tokens] for unit in units]
    plan = _fit_whole(_cut_to_size(units, fitting, max_tokens), max_tokens)
    if len(plan) > _fewest(units, fitting, max_tokens) + 1:
        plan = min(plan, _fill_up(units, fitting, max_tokens), key=len)
    return _even_out(plan) + alone


def _fewest(units: Sequence[UnitLengths], fitting: Sequence[Sequence[int]], max_tokens: int) -> int:
    """A bound from below on the number of micro-batches: each has room for so many tails beside a prefix."""
    total = 0
    for unit, indices in zip(units, fitting, strict=True):
        of_tails = sum(unit.tails[index] for index in indices)
        num_copies = math.ceil(of_tails / (max_tokens - unit.prefix)) if max_tokens > unit.prefix else len(indices)
        total += of_tails + unit.prefix * max(num_copies, min(1, len(indices)))
    return math.ceil(total / max_tokens)


def _cut_to_size(units: Sequence[UnitLengths], fitting: Sequence[Sequence[int]], max_tokens: int) -> list[Piece]:
    """The units whole, or in as few pieces as first-fit-decreasing finds for those that exceed the budget."""
    pieces: list[Piece] = []
    for number, (unit, indices) in enumerate(zip(units, fitting, strict=True)):
        parts: list[list[int]] = []
        loads: list[int] = []
        for index in _longest_first(unit, indices):
            tail = unit.tails[index]
            part = next((part for part, load in enumerate(loads) if load + tail <= max_tokens), len(parts))
            if part == len(parts):
                parts.append([])
                loads.append(unit.prefix)
            parts[part].append(index)
            loads[part] += tail
        pieces += [unit.piece(number, part) for part in parts]
    return pieces


def _fit_whole(pieces: Iterable[Piece], max_tokens: int) -> list[list[Piece]]:
    """Best-fit-decreasing: each piece goes where it leaves the least room."""
    plan: list[list[Piece]] = []
    free: list[int] = []
    for piece in sorted(pieces, key=lambda piece: -piece.num_tokens):
        fits = [number for number, room in enumerate(free) if room >= piece.num_tokens]
        tightest = min(fits, key=lambda number: free[number], default=len(plan))
        if tightest == len(plan):
            plan.append([])
            free.append(max_tokens)
        plan[tightest].append(piece)
        free[tightest] -= piece.num_tokens
    return plan


def _fill_up(units: Sequence[UnitLengths], fitting: Sequence[Sequence[int]], max_tokens: int) -> list[list[Piece]]:
    """One micro-batch after the other: the largest units that fit whole, then what part of a unit fills it most."""
    left = {
        number: unit.piece(number, _longest_first(unit, indices))
        for number, (unit, indices) in enumerate(zip(units, fitting, strict=True))
        if indices
    }
    plan: list[list[Piece]] = []
    while left:
        chosen: list[Piece] = []
        room = max_tokens
        while left and (piece := _next_piece(units, left.values(), room, is_first=not chosen)):
            chosen.append(piece)
            room -= piece.num_tokens
            rest = [index for index in left.pop(piece.unit).rollouts if index not in set(piece.rollouts)]
            if rest:
                left[piece.unit] = units[piece.unit].piece(piece.unit, rest)
        plan.append(chosen)
    return plan


def _next_piece(units: Sequence[UnitLengths], left: Iterable[Piece], room: int, *, is_first: bool) -> Piece | None:
    """The largest piece that fits whole, else the part of one with the most tails; None if nothing is worth it."""
    pieces = list(left)
    whole = [piece for piece in pieces if piece.num_tokens <= room]
    if whole:
        return max(whole, key=lambda piece: (piece.num_tokens, -piece.unit))
    parts = [_part_within(units[piece.unit], piece, room) for piece in pieces]
    of_tails = [part.num_tokens - units[part.unit].prefix for part in parts]
    best = max(range(len(parts)), key=lambda number: (of_tails[number], len(parts[number].rollouts)))
    is_worth_it = bool(parts[best].rollouts) and (is_first or of_tails[best] > 0)
    return parts[best] if is_worth_it else None


def _part_within(unit: UnitLengths, piece: Piece, room: int) -> Piece:
    """As many of a piece's rollouts, which begin with the longest, as fit beside its prefix."""
    room -= unit.prefix
    taken: list[int] = []
    for index in piece.rollouts:
        if unit.tails[index] <= room:
            taken.append(index)
            room -= unit.tails[index]
    return unit.piece(piece.unit, taken)


def _even_out(plan: list[list[Piece]]) -> list[list[Piece]]:
    """The same pieces in as many micro-batches, with the largest load as small as longest-first makes it."""
    pieces = sorted((piece for of_batch in plan for piece in of_batch), key=lambda piece: (piece.unit, piece.rollouts))
    spread = _spread([piece.num_tokens for piece in pieces], len(plan))
    even = [[pieces[index] for index in indices] for indices in spread]
    largest = [max((sum(p.num_tokens for p in of_batch) for of_batch in one), default=0) for one in (even, plan)]
    return even if largest[0] <= largest[1] else plan


def _spread(sizes: Sequence[int], num_bins: int) -> list[list[int]]:
    """Indices of each bin, ascending: the largest first, each into the lightest bin."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    loads = [0] * num_bins
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        lightest = min(range(num_bins), key=lambda b: (loads[b], len(bins[b]), b))
        bins[lightest].append(index)
        loads[lightest] += sizes[index]
    return [sorted(indices) for indices in bins]


def _halve_largest(units: Sequence[Unit], num_wanted: int) -> list[Unit]:
    """Halve the largest units until there are enough, or each is one rollout."""
    parts = list(units)
    while len(parts) < num_wanted:
        divisible = [index for index, unit in enumerate(parts) if len(unit.sequences) > 1]
        if not divisible:
            break
        largest = max(divisible, key=lambda index: parts[index].num_tokens)
        parts[largest : largest + 1] = parts[largest].halves()
    return parts


def _longest_first(unit: UnitLengths, indices: Iterable[int]) -> list[int]:
    return sorted(indices, key=lambda index: (-unit.tails[index], index))


def _take(unit: Unit, piece: Piece) -> Unit:
    if len(piece.rollouts) == len(unit.sequences):
        return unit
    return Unit.of([unit.sequences[index] for index in sorted(piece.rollouts)])


@cache
def _say_too_long(max_tokens: int) -> None:
    LOG.warning("a rollout is longer than learner.micro_batch_tokens (%d): it has a micro-batch of its own", max_tokens)
