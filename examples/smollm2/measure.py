"""Say of a finished run how its held-out answers changed: their form, and apart from it, their arithmetic.

Example: ``python examples/smollm2/measure.py runs/smollm2``
"""

import argparse
from pathlib import Path
from typing import Any

from tristream.config.load import load_run_file
from tristream.monitoring.queries.select import select
from tristream.monitoring.store.clickhouse import open_client
from tristream.runtime.run_folder import RunFolder

QUERY = """
    SELECT
        if(o.source = '', 'all', o.source) AS of_source,
        o.eval_step AS policy_version,
        count() AS answers,
        avg(w.metrics['answer_found']) AS with_number,
        avg(match(o.text, '^[0-9]+ [-+*] [0-9]+ = -?[0-9]+$')) AS in_shown_form,
        avg(o.finish_reason = 'stop') AS ended,
        avg(w.components['accuracy']) AS accuracy,
        avgIf(w.components['accuracy'], w.metrics['answer_found'] = 1) AS of_those_with_number,
        avgIf(w.components['accuracy'], match(o.text, '^[0-9]+ [-+*] [0-9]+ = -?[0-9]+$')) AS of_those_in_shown_form
    FROM (SELECT * FROM rollouts FINAL WHERE run = {run:String} AND split = 'eval') AS o
    INNER JOIN (SELECT * FROM rewards FINAL WHERE run = {run:String} AND split = 'eval') AS w
        ON w.eval_step = o.eval_step AND w.eval_attempt = o.eval_attempt
        AND w.number = o.number AND w.rollout_index = o.rollout_index
    GROUP BY GROUPING SETS ((o.source, o.eval_step), (o.eval_step))
    ORDER BY of_source = 'all', of_source, policy_version
"""


def measure(folder: RunFolder) -> list[dict[str, Any]]:
    """Shares of the held-out answers, a row for each source and evaluated step, and for all sources together."""
    settings = load_run_file(folder.run_file, environment={})
    client = open_client(settings.monitoring, folder)
    try:
        return select(client, QUERY, run=settings.run.id)
    finally:
        client.close()


def main() -> None:
    """Print the measurements of the run that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the finished run")
    rows = measure(RunFolder(parser.parse_args().folder))
    print("| " + " | ".join(name.replace("_", " ") for name in rows[0]) + " |")
    print("| " + " | ".join("---" for _ in rows[0]) + " |")
    for row in rows:
        print(
            "| "
            + " | ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values())
            + " |"
        )


if __name__ == "__main__":
    main()
