"""The step whose policy answered the held-out rows best."""

from tristream.monitoring.queries.select import select
from tristream.monitoring.store.client import Client

_MEANS = """
    SELECT eval_step, avg(value) AS mean
    FROM evaluation WHERE run = {run:String} AND is_complete
    GROUP BY eval_step
    HAVING uniqExact(source) = (SELECT uniqExact(source) FROM evaluation WHERE run = {run:String})
    ORDER BY mean DESC, eval_step
"""


def read_held_out_means(client: Client, run: str) -> dict[int, float]:
    """Mean over the sources of the held-out metric by step, the best one first, of equal ones the earlier.

    Only rounds count that all sources have completed.
    """
    return {row["eval_step"]: row["mean"] for row in select(client, _MEANS, run=run)}
