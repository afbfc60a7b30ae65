"""The data of a run that computes nothing: one question, whose answer is 7."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ANSWER = "7"
RIGHT, WRONG = 1, 0
"""Token that stands for a right or a wrong answer."""


def write_rows(path: Path, num_rows: int) -> Path:
    """Write V-Triune rows for the verifier ``counting``, without images."""
    reward_model = {
        "verifier": "counting",
        "ground_truth": ANSWER,
        "accuracy_ratio": 1.0,
        "format_ratio": 0.0,
    }
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{number} times nothing, and seven: how much is it?"}],
            "reward_model": reward_model,
            "extra_info": {"id": str(number)},
        }
        for number in range(num_rows)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path
