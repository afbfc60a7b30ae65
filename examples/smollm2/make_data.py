"""Write the arithmetic data set: one Parquet file per source and split, with rows of V-Triune's schema.

Example: ``python examples/smollm2/make_data.py --output-dir examples/smollm2/data --seed 0``

Every question has two numbers. Held-out questions are of pairs that no training question has, in either order. Each
prompt shows an answered question, so that the model knows how to answer, and what is left to learn is arithmetic.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
SYSTEM = "You are a calculator."

ROW_SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
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
                ]
            ),
        ),
        ("extra_info", pa.struct([("id", pa.string())])),
    ]
)

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one source asks."""

    sign: str
    compute: Callable[[int, int], int]
    pairs: tuple[Pair, ...]
    """All pairs of numbers that can be asked about."""
    shown: Pair
    """The pair whose answer every prompt shows; it is not asked about."""


OPERATIONS = {
    "addition": Operation(
        sign="+",
        compute=lambda first, second: first + second,
        pairs=tuple((first, second) for first in range(11, 50) for second in range(3, 40)),
        shown=(25, 13),
    ),
    "subtraction": Operation(
        sign="-",
        compute=lambda first, second: first - second,
        pairs=tuple((first, second) for first in range(5, 31) for second in range(2, min(first, 14))),
        shown=(38, 13),
    ),
    "multiplication": Operation(
        sign="*",
        compute=lambda first, second: first * second,
        pairs=tuple((first, second) for first in range(2, 31) for second in range(2, 10)),
        shown=(5, 7),
    ),
}
"""The sources, by name."""


def split_pairs(operation: Operation, num_eval: int, rng: random.Random) -> tuple[list[Pair], list[Pair]]:
    """Shuffle the pairs of an operation into train pairs and held-out ones; (3, 8) and (8, 3) stay together."""
    orders: dict[frozenset[int], list[Pair]] = {}
    for pair in operation.pairs:
        if frozenset(pair) != frozenset(operation.shown):
            orders.setdefault(frozenset(pair), []).append(pair)
    groups = list(orders.values())
    rng.shuffle(groups)
    train: list[Pair] = []
    held_out: list[Pair] = []
    for group in groups:
        (held_out if len(held_out) < num_eval else train).extend(group)
    rng.shuffle(train)
    return train, held_out[:num_eval]


def make_prompt(operation: Operation, pair: Pair) -> list[dict[str, str]]:
    """The conversation up to the answer: one question answered, and one that is not."""
    shown, asked = (f"{first} {operation.sign} {second}" for first, second in (operation.shown, pair))
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": shown},
        {"role": "assistant", "content": f"{shown} = {operation.compute(*operation.shown)}"},
        {"role": "user", "content": asked},
    ]


def make_row(source: str, pair: Pair, row_id: str) -> dict[str, Any]:
    """One row of the data set."""
    operation = OPERATIONS[source]
    answer = str(operation.compute(*pair))
    return {
        "data_source": source,
        "prompt": make_prompt(operation, pair),
        "ability": "math",
        "reward_model": {
            "answer": answer,
            "ground_truth": answer,
            "accuracy_ratio": 1.0,
            "format_ratio": 0.0,
            "verifier": "number",
        },
        "extra_info": {"id": row_id},
    }


def make_table(source: str, split: str, pairs: Sequence[Pair]) -> pa.Table:
    """The rows of one source and split."""
    rows = [make_row(source, pair, f"{split}_{source}_{number:04d}") for number, pair in enumerate(pairs)]
    return pa.Table.from_pylist(rows, schema=ROW_SCHEMA)


def write_data(output_dir: Path, seed: int, num_eval: int) -> None:
    """Write all files and print their sizes."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for source, operation in OPERATIONS.items():
        # Each source draws from a stream of its own, so that one does not change another.
        splits = split_pairs(operation, num_eval, random.Random(f"{seed} {source}"))
        for split, pairs in zip(("train", "eval"), splits, strict=True):
            path = output_dir / f"{split}_{source}.parquet"
            pq.write_table(make_table(source, split, pairs), path, compression="zstd", compression_level=19)
            print(f"{path.name}: {len(pairs)} rows, {path.stat().st_size / 1024:.0f} KiB")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=HERE / "data", help="folder of the Parquet files")
    parser.add_argument("--seed", type=int, default=0, help="decides which questions are held out")
    parser.add_argument("--num-eval", type=int, default=85, help="held-out rows of each source")
    return parser.parse_args()


def main() -> None:
    """Write the data set that the command line describes."""
    arguments = parse_arguments()
    write_data(arguments.output_dir, arguments.seed, arguments.num_eval)


if __name__ == "__main__":
    main()
