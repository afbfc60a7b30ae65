"""Draw sources.png: two held-out rows of each source with their question and ground truth."""

import argparse
import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
PANEL_WIDTH = 540
PANEL_HEIGHTS = {"digits_read": 132, "digits_count": 216, "digits_sum": 216, "digits_find": 200}
ZOOM = 3
ROWS = (0, 1)


def draw_panel(row: dict[str, Any]) -> Image.Image:
    """Draw one row: its picture enlarged, then question and ground truth."""
    panel = Image.new("RGB", (PANEL_WIDTH, PANEL_HEIGHTS[row["data_source"]]), "white")
    picture = Image.open(io.BytesIO(row["images"][0]["bytes"]))
    large = picture.resize((picture.width * ZOOM, picture.height * ZOOM), Image.Resampling.NEAREST)
    panel.paste(large, (8, 20))
    draw, font, small_font = ImageDraw.Draw(panel), ImageFont.load_default(12), ImageFont.load_default(9)
    draw.text((8, 2), f"{row['data_source']}: {row['prompt'][0]['content']}", fill="black", font=font)
    truth = row["reward_model"]["ground_truth"]
    if row["data_source"] == "digits_find":
        lines = truth.replace("}, {", "},\n {").replace(', "label', ',\n  "label')
        draw.multiline_text((large.width + 20, 24), lines, fill="black", font=small_font)
    else:
        draw.text((8, 24 + large.height), truth, fill="black", font=font)
    return panel


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=HERE / "data", help="folder of the Parquet files")
    parser.add_argument("--output", type=Path, default=HERE / "sources.png", help="the picture to write")
    return parser.parse_args()


def main() -> None:
    """Draw the picture."""
    arguments = parse_arguments()
    sheet = Image.new("RGB", (PANEL_WIDTH * len(ROWS), sum(PANEL_HEIGHTS.values())), "white")
    top = 0
    for source, height in PANEL_HEIGHTS.items():
        rows = pq.read_table(arguments.data_dir / f"eval_{source}.parquet").to_pylist()
        for column, row in enumerate(ROWS):
            sheet.paste(draw_panel(rows[row]), (column * PANEL_WIDTH, top))
        top += height
    sheet.save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()
