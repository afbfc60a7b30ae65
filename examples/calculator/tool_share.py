"""How many answers of a finished run used the calculator, and how many were right.

Example: ``python examples/calculator/tool_share.py runs/calculator``
"""

import argparse
from pathlib import Path

from tristream.config.load import load_run_file
from tristream.monitoring.queries.select import select
from tristream.monitoring.store.clickhouse import open_client
from tristream.runtime.run_folder import RunFolder

SHARES = """
    SELECT split, if(split = 'eval', eval_step, 10 * intDiv(r.step + 9, 10)) AS until_step, count() AS answers,
        avg(num_segments > 2) AS called, avg(metric_value) AS right,
        avgIf(metric_value, num_segments > 2) AS right_if_called
    FROM (SELECT * FROM rollouts FINAL WHERE run = {run:String}) AS r
    INNER JOIN (SELECT * EXCEPT (step) FROM scored_rollouts WHERE run = {run:String} AND is_judged) AS s
        USING (split, eval_step, eval_attempt, number, rollout_index)
    GROUP BY split, until_step ORDER BY split, until_step
"""
"""A rollout without a call has two segments: what it was asked and what it answered."""


def main() -> None:
    """Print one line for each evaluation round, and for each ten steps of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", type=Path, help="folder of a run that is over, such as runs/calculator")
    folder = RunFolder(parser.parse_args().run_folder)
    settings = load_run_file(folder.run_file, environment={})
    client = open_client(settings.monitoring, folder, timeout_seconds=10.0)
    print("split  until step  answers  called  right  right if called")
    for row in select(client, SHARES, run=settings.run.id):
        called, right, if_called = (f"{row[name] or 0:.2f}" for name in ("called", "right", "right_if_called"))
        print(f"{row['split']:<5}{row['until_step']:>12}{row['answers']:>9}{called:>8}{right:>7}{if_called:>17}")
    client.close()


if __name__ == "__main__":
    main()
