"""How long texts are kept: figures stay for ever, and are small; prompts and answers are most of what is stored."""

from collections.abc import Mapping, Sequence

from tristream.monitoring.store.client import Client
from tristream.monitoring.store.migrations import on_cluster

TEXTS: Mapping[str, Sequence[str]] = {
    "prompts": ("text", "ground_truth"),
    "rollouts": ("prompt_text", "text", "ground_truth"),
    "rewards": ("detail",),
}
"""Columns that become empty, by table."""

_TABLE = "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = {table:String}"


def keep_texts(client: Client, days: int, *, cluster: str = "") -> None:
    """Empty texts so many days after their event was made, of all runs of the database.

    Args:
        client: an open database with its tables.
        days: 0 leaves the tables as they are, since another run may have said something of them.
        cluster: on whose replicas the tables are; empty: on one server.
    """
    ttl = f"toDateTime(created) + toIntervalDay({days})"
    for table, columns in TEXTS.items() if days else ():
        definition = str(client.query(_TABLE, {"table": table}).result_rows[0][0])
        if definition.count(f"TTL {ttl}") < len(columns):
            for column in columns:
                client.command(on_cluster(f"ALTER TABLE {table} MODIFY COLUMN {column} TTL {ttl}", cluster))
