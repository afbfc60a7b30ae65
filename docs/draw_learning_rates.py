"""Draw what learning rates did to the digits demo: a panel a rate, a line a seed, content by step.

Reads ``docs/digits_learning_rates.csv``, as examples/digits/learning_rates.py writes it:
``python docs/draw_learning_rates.py``
"""

import csv
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE / "digits_learning_rates.csv"
PICTURE = HERE / "pictures/digits-learning-rates.svg"
WIDTH, HEIGHT, MARGIN = 230, 180, 34
COLOURS = ("#0072b2", "#d55e00", "#009e73")
GRID = "#dddddd"

Curves = dict[str, dict[str, dict[int, float]]]
"""Mean content of the sources by rate, seed and step."""


def read_curves(table: Path) -> Curves:
    """The mean over the sources of each held-out round."""
    values: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            values[row["learning_rate"], row["seed"], int(row["step"])].append(float(row["content"]))
    curves: Curves = defaultdict(lambda: defaultdict(dict))
    for (rate, seed, step), contents in values.items():
        curves[rate][seed][step] = sum(contents) / len(contents)
    return curves


def draw_panel(rate: str, by_seed: dict[str, dict[int, float]], left: int, limits: tuple[float, float]) -> list[str]:
    """One panel as SVG."""
    last = max(max(points) for points in by_seed.values())
    low, high = limits

    def place(step: float, content: float) -> str:
        x = left + MARGIN + step / last * (WIDTH - MARGIN - 8)
        return f"{x:.1f},{HEIGHT - MARGIN - (content - low) / (high - low) * (HEIGHT - 2 * MARGIN):.1f}"

    parts = [f'<text x="{left + WIDTH / 2}" y="16" text-anchor="middle" font-weight="bold">learning rate {rate}</text>']
    for tenth in range(round(low * 10), round(high * 10) + 1):
        start, end = place(0, tenth / 10), place(last, tenth / 10)
        y = float(start.split(",")[1])
        parts.append(f'<polyline points="{start} {end}" stroke="{GRID}" fill="none"/>')
        parts.append(f'<text x="{left + MARGIN - 4}" y="{y + 4:.1f}" text-anchor="end">{tenth / 10:.1f}</text>')
    parts.append(f'<text x="{left + WIDTH - 8}" y="{HEIGHT - 14}" text-anchor="end">step {last}</text>')
    for (seed, points), colour in zip(sorted(by_seed.items()), COLOURS, strict=False):
        line = " ".join(place(step, content) for step, content in sorted(points.items()))
        parts.append(f'<polyline points="{line}" stroke="{colour}" stroke-width="1.6" fill="none"/>')
        x = left + MARGIN + 46 * (int(seed) - 1)
        parts.append(f'<text x="{x}" y="{HEIGHT - 14}" fill="{colour}">seed {seed}</text>')
    return parts


def draw(curves: Curves) -> str:
    """The whole picture as SVG."""
    contents = [value for by_seed in curves.values() for points in by_seed.values() for value in points.values()]
    limits = (int(min(contents) * 10) / 10, -int(-max(contents) * 10 - 1) / 10)
    parts: list[str] = []
    for number, rate in enumerate(sorted(curves, key=float)):
        parts += draw_panel(rate, curves[rate], number * WIDTH, limits)
    size = f'width="{WIDTH * len(curves)}" height="{HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11" fill="#222222">'
    return "\n".join([head, f'<rect {size} fill="white"/>', *parts, "</svg>", ""])


def main() -> None:
    """Draw the picture."""
    PICTURE.write_text(draw(read_curves(TABLE)), encoding="utf-8")


if __name__ == "__main__":
    main()
