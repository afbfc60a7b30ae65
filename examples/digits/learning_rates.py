"""Train the demo with several learning rates and seeds, and write what each did to the held-out content.

Every run is ``tristream up run.toml``; a line of the CSV file is one held-out round of one source of one run.
Runs whose lines are there are left out, so the command can be ended and given again.

Example: ``python examples/digits/learning_rates.py --rates 3e-5 1e-4 3e-4 --seeds 1 2 3 --output runs/rates``
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from regrade import grade, read_answers

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "docs/digits_learning_rates.csv"
COLUMNS = ("learning_rate", "seed", "steps", "step", "source", "content", "style")


def run_id(rate: str, seed: int) -> str:
    """The id of one run, such as ``digits-1e-4-2``."""
    return f"digits-{rate}-{seed}"


def train(rate: str, seed: int, output: Path, further: list[str]) -> None:
    """One run."""
    keys = [f"run.id={run_id(rate, seed)}", f"run.output={output.resolve()}", f"learner.learning_rate={rate}"]
    settings = [word for key in keys for word in ("--set", key)]
    command = [sys.executable, "-m", "tristream.cli", "up", str(HERE / "run.toml"), "--seed", str(seed), *settings]
    subprocess.run([*command, *further], check=True)


def rows_of(rate: str, seed: int, run_folder: Path) -> list[dict[str, object]]:
    """The lines of one run."""
    answers = read_answers(run_folder)
    num_steps = max(step for by_step in answers.values() for step in by_step)
    rows: list[dict[str, object]] = []
    for source, by_step in sorted(answers.items()):
        for step, texts in sorted(by_step.items()):
            content, style = (round(value, 4) for value in grade(source, texts))
            values = (rate, seed, num_steps, step, source, content, style)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def read_rows(table: Path) -> list[dict[str, object]]:
    """The lines that are there."""
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(table: Path, rows: list[dict[str, object]]) -> None:
    """All lines, in the order of rates, seeds and steps."""
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Run what is missing, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", nargs="+", required=True, help="as they are to be called, such as 1e-4")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--table", type=Path, default=TABLE, help="the CSV file")
    arguments, further = parser.parse_known_args()
    for seed in arguments.seeds:
        for rate in arguments.rates:
            rows = read_rows(arguments.table)
            if any((row["learning_rate"], row["seed"]) == (rate, str(seed)) for row in rows):
                continue
            train(rate, seed, arguments.output, further)
            write_rows(arguments.table, [*rows, *rows_of(rate, seed, arguments.output / run_id(rate, seed))])


if __name__ == "__main__":
    main()
