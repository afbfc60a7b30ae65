"""Write the digits data set: one Parquet file per source and split, with rows of V-Triune's schema.

Example: ``python examples/digits/make_data.py --output-dir examples/digits/data --seed 0``
"""

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from compose import COMPOSERS, Pool, Task, compose_task, format_solution, load_pools
from PIL import Image

HERE = Path(__file__).resolve().parent

VERIFIERS = {"digits_read": "ocr", "digits_count": "counting", "digits_sum": "math", "digits_find": "detection"}
ABILITIES = {"digits_read": "ocr", "digits_count": "counting", "digits_sum": "math", "digits_find": "detection"}
# V-Triune rewards format in detection rows only; elsewhere a wrong form already costs the whole accuracy.
FORMAT_RATIOS = {"digits_read": 0.0, "digits_count": 0.0, "digits_sum": 0.0, "digits_find": 0.1}
DETECTION_WEIGHTS = {
    "iou_max_label_first": 1.0,
    "iou_max_iou_first": 0.0,
    "iou_completeness": 0.3,
    "map": 0.0,
    "map50": 0.0,
    "map75": 0.0,
}

VERIFIER_PARM_TYPE = pa.struct(
    [
        ("det_verifier_normalized", pa.bool_()),
        ("det_reward_ratio", pa.struct([(name, pa.float32()) for name in DETECTION_WEIGHTS])),
    ]
)
ROW_SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("images", pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
        ("prompt", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))),
        ("ability", pa.string()),
        (
            "reward_model",
            pa.struct(
                [
                    ("answer", pa.string()),
                    ("ground_truth", pa.string()),
                    ("accuracy_ratio", pa.float32()),
                    ("format_ratio", pa.float32()),
                    ("verifier", pa.string()),
                    ("verifier_parm", VERIFIER_PARM_TYPE),
                ]
            ),
        ),
        (
            "extra_info",
            pa.struct(
                [("id", pa.string()), ("image_path", pa.string()), ("source_digit_indexes", pa.list_(pa.int32()))]
            ),
        ),
    ]
)


def encode_png(task: Task) -> bytes:
    """Return the picture of a task as an RGB PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(task.scene.pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def make_row(task: Task, row_id: str) -> dict[str, Any]:
    """Return one row of the data set."""
    image_path = f"{row_id}.png"
    is_detection = VERIFIERS[task.source] == "detection"
    return {
        "data_source": task.source,
        "images": [{"bytes": encode_png(task), "path": image_path}],
        "prompt": [{"content": f"<image>{task.question}", "role": "user"}],
        "ability": ABILITIES[task.source],
        "reward_model": {
            "answer": task.answer,
            "ground_truth": format_solution(task.source, task.answer),
            "accuracy_ratio": 1.0,
            "format_ratio": FORMAT_RATIOS[task.source],
            "verifier": VERIFIERS[task.source],
            "verifier_parm": {"det_verifier_normalized": False, "det_reward_ratio": DETECTION_WEIGHTS}
            if is_detection
            else None,
        },
        "extra_info": {
            "id": row_id,
            "image_path": image_path,
            "source_digit_indexes": list(task.scene.source_indexes),
        },
    }


def make_table(source: str, split: str, num_rows: int, pool: Pool, seed: int) -> pa.Table:
    """Compose the rows of one source and split."""
    # Each file draws from a stream of its own, so that one row count does not change another file.
    stream = [seed, sorted(COMPOSERS).index(source), ("train", "eval").index(split)]
    rng = np.random.default_rng(stream)
    rows = [make_row(compose_task(rng, pool, source), f"{split}_{source}_{number:04d}") for number in range(num_rows)]
    return pa.Table.from_pylist(rows, schema=ROW_SCHEMA)


def write_data(output_dir: Path, seed: int, num_train: int, num_eval: int) -> None:
    """Write all files and print their sizes."""
    output_dir.mkdir(parents=True, exist_ok=True)
    train_pool, eval_pool = load_pools(seed)
    for split, pool, num_rows in (("train", train_pool, num_train), ("eval", eval_pool, num_eval)):
        for source in COMPOSERS:
            path = output_dir / f"{split}_{source}.parquet"
            table = make_table(source, split, num_rows, pool, seed)
            pq.write_table(table, path, compression="zstd", compression_level=19)
            print(f"{path.name}: {table.num_rows} rows, {path.stat().st_size / 1024:.0f} KiB")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=HERE / "data", help="folder of the Parquet files")
    parser.add_argument("--seed", type=int, default=0, help="splits the source digits and draws the scenes")
    parser.add_argument("--num-train", type=int, default=1000, help="train rows of each source")
    parser.add_argument("--num-eval", type=int, default=128, help="held-out rows of each source")
    return parser.parse_args()


def main() -> None:
    """Write the data set that the command line describes."""
    arguments = parse_arguments()
    write_data(arguments.output_dir, arguments.seed, arguments.num_train, arguments.num_eval)


if __name__ == "__main__":
    main()
