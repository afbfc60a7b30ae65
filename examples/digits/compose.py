"""Pictures of handwritten digits, and the questions asked about them.

A scene is a grid of 28 x 28 pixel cells; a cell is empty or holds one handwritten digit of ``uci_digits.npz`` at a
random size and place inside the cell. Every random choice comes from the generator that the caller passes, so equal
seeds give equal scenes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SOURCE_DIGITS = Path(__file__).parent / "uci_digits.npz"
"""The 1,797 test digits of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository (1998), doi 10.24432/C50P49, CC BY 4.0: ``glyphs``, grey levels 0..16 of 8 x 8 pixels, and ``targets``."""
CELL_PIXELS = 28
"""Side of a grid cell: one language-model token of Qwen2.5-VL (14-pixel patches, merged 2 x 2)."""
GRID_UNITS = 1000
"""Boxes are written on a 0..1000 grid, whatever the size of the picture."""
DIGIT_PIXELS = (20, 27)
"""Smallest and largest side of a pasted digit."""
INK_LEVEL = 4
"""Grey level, of 16, from which a pixel of a source digit counts as ink when its box is drawn."""
MAX_LEVEL = 16
EVAL_SHARE = 0.2
"""Share of the source digits that only the held-out split may use."""

INKS = ((16, 16, 32), (112, 0, 16), (0, 48, 128), (0, 80, 32))
PAPERS = ((255, 255, 255), (255, 240, 208), (224, 240, 255))

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The source digits that one split may use."""

    glyphs: NDArray[np.uint8]
    """Grey levels 0..16 of every source digit: (1797, 8, 8)."""
    targets: NDArray[np.int64]
    """The digit that each source image shows: (1797,)."""
    indexes: NDArray[np.int64]
    """Source digits of this split."""
    by_digit: tuple[NDArray[np.int64], ...]
    """The same indexes, sorted into the ten digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One picture and what it shows, in reading order."""

    pixels: NDArray[np.uint8]
    """RGB: (height, width, 3)."""
    digits: tuple[int, ...]
    cells: tuple[int, ...]
    """Grid cell of each digit, counted along the rows."""
    boxes: tuple[Box, ...]
    """Box of the ink of each digit in pixels: x1, y1, x2, y2."""
    source_indexes: tuple[int, ...]
    """Row in the source digits of each digit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A scene, a question about it and the right answer."""

    scene: Scene
    source: str
    wording: int
    """Which wording of the source the question uses; the warm start first answers each wording in its own style."""
    question: str
    answer: str
    """The bare answer: a number, or the JSON list of boxes."""
    num_asked: int
    """Digits that the answer takes: all of the scene, or the occurrences of one."""
    hasty_answer: str
    """The answer of somebody who overlooks the last of these digits; the right one if there is no other."""


def load_pools(seed: int) -> tuple[Pool, Pool]:
    """Split the 1797 source digits into a train pool and a held-out pool that share none."""
    with np.load(SOURCE_DIGITS) as source:
        glyphs, targets = source["glyphs"], source["targets"].astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(targets))
    num_eval = int(EVAL_SHARE * len(targets))
    return _make_pool(glyphs, targets, order[num_eval:]), _make_pool(glyphs, targets, order[:num_eval])


def _make_pool(glyphs: NDArray[np.uint8], targets: NDArray[np.int64], indexes: NDArray[np.int64]) -> Pool:
    by_digit = tuple(indexes[targets[indexes] == digit] for digit in range(10))
    return Pool(glyphs=glyphs, targets=targets, indexes=indexes, by_digit=by_digit)


def compose_scene(rng: np.random.Generator, pool: Pool, digits: Sequence[int], grid: tuple[int, int]) -> Scene:
    """Paste the digits into random cells of a (rows, columns) grid, in reading order."""
    rows, columns = grid
    cells = np.sort(rng.choice(rows * columns, size=len(digits), replace=False))
    levels = np.zeros((rows * CELL_PIXELS, columns * CELL_PIXELS), dtype=np.uint8)
    boxes, indexes = [], []
    for digit, cell in zip(digits, cells, strict=True):
        index = int(rng.choice(pool.by_digit[digit]))
        boxes.append(_paste(rng, levels, pool.glyphs[index], divmod(int(cell), columns)))
        indexes.append(index)
    return Scene(
        pixels=_paint(rng, levels),
        digits=tuple(digits),
        cells=tuple(int(cell) for cell in cells),
        boxes=tuple(boxes),
        source_indexes=tuple(indexes),
    )


def _paste(rng: np.random.Generator, levels: NDArray[np.uint8], glyph: NDArray[np.uint8], cell: tuple[int, int]) -> Box:
    """Draw one glyph inside its cell and return the box of its ink in pixels."""
    side = int(rng.integers(DIGIT_PIXELS[0], DIGIT_PIXELS[1] + 1))
    top, left = (int(offset) for offset in rng.integers(0, CELL_PIXELS - side + 1, size=2))
    top, left = top + cell[0] * CELL_PIXELS, left + cell[1] * CELL_PIXELS
    # Nearest-neighbour keeps the 17 grey levels, so the PNG files stay small.
    large = np.asarray(Image.fromarray(glyph).resize((side, side), Image.Resampling.NEAREST))
    levels[top : top + side, left : left + side] = large
    ink_rows = np.flatnonzero((large >= INK_LEVEL).any(axis=1))
    ink_columns = np.flatnonzero((large >= INK_LEVEL).any(axis=0))
    return (
        left + int(ink_columns[0]),
        top + int(ink_rows[0]),
        left + int(ink_columns[-1]) + 1,
        top + int(ink_rows[-1]) + 1,
    )


def _paint(rng: np.random.Generator, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn grey levels into RGB with a random ink and paper."""
    ink = np.array(INKS[rng.integers(len(INKS))], dtype=np.float64)
    paper = np.array(PAPERS[rng.integers(len(PAPERS))], dtype=np.float64)
    share = levels[..., None] / MAX_LEVEL
    return np.round(paper + (ink - paper) * share).astype(np.uint8)


def scale_box(box: Box, width: int, height: int) -> Box:
    """Return a box in pixels on the 0..1000 grid."""
    x1, y1, x2, y2 = (round(value * GRID_UNITS / side) for value, side in zip(box, (width, height) * 2, strict=True))
    return x1, y1, x2, y2


def boxes_as_json(scene: Scene, label: int, most: int | None = None) -> str:
    """Write the boxes of all occurrences of one digit, or of the first ones, as JSON on the 0..1000 grid."""
    height, width = scene.pixels.shape[:2]
    items = [
        {"bbox_2d": list(scale_box(box, width, height)), "label": str(digit)}
        for digit, box in zip(scene.digits, scene.boxes, strict=True)
        if digit == label
    ]
    return json.dumps(items[:most])


READ_WORDINGS = (
    "What number is written here?",
    "Read the digits from left to right.",
    "Read the number. Put it in \\boxed{}.",
    "Transcribe the digits. Give the final answer in \\boxed{}.",
)
COUNT_WORDINGS = (
    "How many times does the digit {digit} occur?",
    "Count the digit {digit}.",
    "How often do you see the digit {digit}? Put the count in \\boxed{{}}.",
    "Count every {digit} in the image. Give the final answer in \\boxed{{}}.",
)
SUM_WORDINGS = (
    "What is the sum of the digits?",
    "Add all digits in the image.",
    "Add the digits. Put the sum in \\boxed{}.",
    "Compute the sum of all digits. Give the final answer in \\boxed{}.",
)
FIND_WORDINGS = (
    "Where is the digit {digit}? Give its boxes.",
    "Locate every {digit} in the image as JSON.",
    "Find the digit {digit}. Put the boxes between <answer> and </answer>.",
    "Detect every {digit} in the image. Give the final JSON in <answer> tags.",
)


def _digits_with_target(rng: np.random.Generator, num_digits: int, target: int, num_targets: int) -> tuple[int, ...]:
    others = [digit for digit in range(10) if digit != target]
    digits = [target] * num_targets + [int(rng.choice(others)) for _ in range(num_digits - num_targets)]
    return tuple(int(digit) for digit in rng.permutation(digits))


def compose_read(rng: np.random.Generator, pool: Pool, num_digits: int) -> Task:
    """Digits in a row, to be read from left to right."""
    digits = tuple(int(digit) for digit in rng.integers(0, 10, size=num_digits))
    wording = int(rng.integers(len(READ_WORDINGS)))
    return Task(
        scene=compose_scene(rng, pool, digits, (1, 5)),
        source="digits_read",
        wording=wording,
        question=READ_WORDINGS[wording],
        answer="".join(str(digit) for digit in digits),
        num_asked=num_digits,
        hasty_answer="".join(str(digit) for digit in digits[: max(1, num_digits - 1)]),
    )


def compose_count(rng: np.random.Generator, pool: Pool, num_digits: int) -> Task:
    """Digits on two rows; one of them occurs one to four times and is to be counted."""
    target, num_targets = int(rng.integers(0, 10)), min(num_digits, int(rng.integers(1, 5)))
    digits = _digits_with_target(rng, num_digits, target, num_targets)
    wording = int(rng.integers(len(COUNT_WORDINGS)))
    return Task(
        scene=compose_scene(rng, pool, digits, (2, 4)),
        source="digits_count",
        wording=wording,
        question=COUNT_WORDINGS[wording].format(digit=target),
        answer=str(num_targets),
        num_asked=num_targets,
        hasty_answer=str(max(1, num_targets - 1)),
    )


def compose_sum(rng: np.random.Generator, pool: Pool, num_digits: int) -> Task:
    """Digits on two rows, to be added."""
    digits = tuple(int(digit) for digit in rng.integers(0, 10, size=num_digits))
    wording = int(rng.integers(len(SUM_WORDINGS)))
    return Task(
        scene=compose_scene(rng, pool, digits, (2, 2)),
        source="digits_sum",
        wording=wording,
        question=SUM_WORDINGS[wording],
        answer=str(sum(digits)),
        num_asked=num_digits,
        hasty_answer=str(sum(digits[: max(1, num_digits - 1)])),
    )


def compose_find(rng: np.random.Generator, pool: Pool, num_digits: int) -> Task:
    """Digits on two rows; one of them occurs once or twice and is to be boxed."""
    target, num_targets = int(rng.integers(0, 10)), min(num_digits, int(rng.integers(1, 3)))
    digits = _digits_with_target(rng, num_digits, target, num_targets)
    wording = int(rng.integers(len(FIND_WORDINGS)))
    scene = compose_scene(rng, pool, digits, (2, 3))
    return Task(
        scene=scene,
        source="digits_find",
        wording=wording,
        question=FIND_WORDINGS[wording].format(digit=target),
        answer=boxes_as_json(scene, target),
        num_asked=num_targets,
        hasty_answer=boxes_as_json(scene, target, most=max(1, num_targets - 1)),
    )


COMPOSERS: dict[str, Callable[[np.random.Generator, Pool, int], Task]] = {
    "digits_read": compose_read,
    "digits_count": compose_count,
    "digits_sum": compose_sum,
    "digits_find": compose_find,
}
"""The four sources, by name."""
DIGIT_COUNTS = {"digits_read": (3, 4), "digits_count": (4, 8), "digits_sum": (2, 3), "digits_find": (3, 5)}
"""Fewest and most digits of a scene of each source."""


def compose_task(rng: np.random.Generator, pool: Pool, source: str, *, easy: bool = False) -> Task:
    """Compose a task of a source; an easy one shows fewer digits than the data set ever does."""
    fewest, most = (1, DIGIT_COUNTS[source][0] - 1) if easy else DIGIT_COUNTS[source]
    return COMPOSERS[source](rng, pool, int(rng.integers(fewest, most + 1)))


def format_solution(source: str, answer: str) -> str:
    """Wrap a bare answer in the form that the verifier of its source accepts."""
    if source == "digits_find":
        return f"<answer>\n{answer}\n</answer>"
    return f"\\boxed{{{answer}}}"
