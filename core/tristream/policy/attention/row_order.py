"""In which order rows of different lengths stand, so that attention reads little that nobody needs.

Rows are taken in chunks, each as wide as its longest row. All rows grow by one column a step, so an order by length
stays one until rows come and go. Then what leaves a block is replaced by the longest rows of the next block, and so on
to the end, where fresh rows join: few rows move, and no row is longer than one of an earlier block.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

BLOCK_ROWS = 32
"""Chunks are made of blocks of so many rows."""
CHUNK_COST = 800
"""What the calls for a chunk cost, in columns of one row."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows ``start`` to ``end`` (exclusive), and the columns of the longest of them."""

    start: int
    end: int
    num_columns: int


@dataclass(slots=True, kw_only=True)
class RowOrder:
    """Columns of each row, and the chunks that they make."""

    is_chunked: bool
    """Whether calls are cheap here; else all rows are one chunk."""
    lengths: list[int] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def longest(self) -> int:
        """Columns of the longest row."""
        return max(self.lengths, default=0)

    def grow(self) -> None:
        """Every row has a column more."""
        self.lengths = [length + 1 for length in self.lengths]
        self.chunks = [Chunk(chunk.start, chunk.end, chunk.num_columns + 1) for chunk in self.chunks]

    def exchange(self, leaving: Iterable[int], num_joining: int) -> list[int]:
        """Let rows leave and fresh ones join; for each row afterwards, where it was among those before and these."""
        num_before = len(self.lengths)
        size = BLOCK_ROWS if self.is_chunked else max(1, num_before + num_joining)
        sources = arrange(self.lengths, frozenset(leaving), num_joining, size)
        self.lengths = [self.lengths[source] if source < num_before else 0 for source in sources]
        starts = range(0, len(sources), size)
        self.chunks = cheapest_chunks(
            [Chunk(at, min(at + size, len(sources)), max(self.lengths[at : at + size])) for at in starts]
        )
        return sources


def arrange(lengths: Sequence[int], leaving: frozenset[int], num_joining: int, size: int) -> list[int]:
    """Where each row comes from after an exchange: blocks of rows, none longer than one of an earlier block."""
    num_before = len(lengths)
    num_places = num_before - len(leaving) + num_joining
    blocks = [
        [row for row in range(start, min(start + size, num_before)) if row not in leaving]
        for start in range(0, max(num_before, num_places), size)
    ]
    fresh = iter(range(num_before, num_before + num_joining))
    sources = [-1] * num_places
    for number, block in enumerate(blocks):
        for later in blocks[number + 1 :]:
            while later and len(block) < size:
                block.append(max(later, key=lengths.__getitem__))
                later.remove(block[-1])
        block.extend(islice(fresh, size - len(block)))
        _take_places(sources, block, number * size)
    return sources


def _take_places(sources: list[int], block: Sequence[int], start: int) -> None:
    """Rows stay in their places where they can, the others take the free ones of their block."""
    places = range(start, start + len(block))
    for row in block:
        if row in places:
            sources[row] = row
    free = (place for place in places if sources[place] < 0)
    for row in block:
        if row not in places:
            sources[next(free)] = row


def cheapest_chunks(blocks: Sequence[Chunk]) -> list[Chunk]:
    """Join neighbouring blocks so that columns read and calls together cost least."""
    best: list[tuple[int, list[Chunk]]] = [(0, [])]
    for end in range(1, len(blocks) + 1):
        choices, num_columns = [], 0
        for start in range(end - 1, -1, -1):
            num_columns = max(num_columns, blocks[start].num_columns)
            num_rows = blocks[end - 1].end - blocks[start].start
            choices.append((best[start][0] + CHUNK_COST + num_rows * num_columns, start, num_columns))
        cost, start, num_columns = min(choices)
        best.append((cost, [*best[start][1], Chunk(blocks[start].start, blocks[end - 1].end, num_columns)]))
    return best[-1][1]
