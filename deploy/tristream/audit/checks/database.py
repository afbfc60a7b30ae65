"""The database holds as many facts of each topic as the log."""

from collections.abc import Mapping

from tristream.audit.findings import Check
from tristream.monitoring.store.client import Client

NAME = "database as the log"
_COUNT = "SELECT count() FROM {table} FINAL WHERE run = {{run:String}}"


def count_rows(client: Client, run: str, topics: Mapping[str, int]) -> dict[str, int]:
    """Rows of a run by the topic whose table they are in, each identity once."""
    return {
        topic: int(client.query(_COUNT.format(table=topic), parameters={"run": run}).result_rows[0][0])
        for topic in topics
    }


def check_database(rows: Mapping[str, int], facts: Mapping[str, int], given_up: Mapping[str, int]) -> Check:
    """Compare rows with facts by topic.

    Args:
        rows: rows by topic.
        facts: different facts on the log by topic.
        given_up: records by topic that the monitor could not write, and said so.
    """
    findings = [
        f"topic {topic}: {rows[topic]} rows in the database, and {num_facts} facts on the log"
        for topic, num_facts in facts.items()
        if not num_facts - given_up.get(topic, 0) <= rows[topic] <= num_facts
    ]
    return Check(name=NAME, num_checked=sum(rows.values()), findings=tuple(findings))


def skip_database(reason: str) -> Check:
    """Why the database was not compared."""
    return Check(name=NAME, num_checked=0, note=reason, is_skipped=True)
