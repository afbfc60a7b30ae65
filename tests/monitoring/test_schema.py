"""The schema on a real ClickHouse engine: tables fit the rows, and a fact that comes twice counts once."""

import re

import pytest

from tristream.monitoring.store.clickhouse import DEFAULT_DATABASE
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.migrations import all_migrations, migrate, on_cluster
from tristream.monitoring.store.reflection import count_reflection_words
from tristream.monitoring.store.retention import TEXTS, keep_texts
from tristream.monitoring.store.tables import TABLES
from tristream.runtime.errors import UserError
from tristream.wire.events import Fate, Group, Outcome, RolloutOutcome, Split
from tristream.wire.topics import ALL_TOPICS, OUTCOMES


def make_outcome(number: int) -> Outcome:
    group = Group(run="test", split=Split.TRAIN, number=number, source="words", sample_id="7", size=2)
    rollouts = tuple(RolloutOutcome(index=i, valid=True, reward=float(i), advantage=i - 0.5) for i in range(2))
    return Outcome(group=group, fate=Fate.TRAINED, step=3, rollouts=rollouts, oldest_version=2, created_ns=10**18)


def test_migrating_again_changes_nothing(client: Client) -> None:
    assert migrate(client) == []
    applied = client.query("SELECT count() FROM schema_migrations FINAL").result_rows
    assert applied[0][0] == len(all_migrations())


def test_every_topic_has_a_table_with_its_columns(client: Client) -> None:
    assert set(TABLES) == {topic.name for topic in ALL_TOPICS}
    for table in TABLES.values():
        rows = client.query(f"DESCRIBE TABLE {table.name}").result_rows
        assert [row[0] for row in rows] == sorted(table.column_names, key=[row[0] for row in rows].index)


def test_tables_of_another_version_are_refused_in_one_line(client: Client) -> None:
    client.command("CREATE DATABASE IF NOT EXISTS older")
    client.command("USE older")
    try:
        migrate(client)
        row = [1, "0001_tables.sql", "a checksum of another time"]
        columns = ["number", "name", "checksum"]
        client.insert("schema_migrations", [row], column_names=columns, settings={"async_insert": 0})
        expected = (
            "ClickHouse in runs/digits: its tables were made by another version of tristream"
            " (0001_tables.sql differs here); use the version that made them, or another database or run.id"
        )
        with pytest.raises(UserError, match=re.escape(expected)):
            migrate(client, where="ClickHouse in runs/digits")
    finally:
        client.command(f"USE {DEFAULT_DATABASE}")


def test_a_newer_monitor_that_only_added_something_does_not_stop_this_one(client: Client) -> None:
    client.command("CREATE DATABASE IF NOT EXISTS newer")
    client.command("USE newer")
    columns = ["number", "name", "checksum"]
    try:
        migrate(client)
        row = [99, "0099_more.additive.sql", "of another time"]
        client.insert("schema_migrations", [row], column_names=columns, settings={"async_insert": 0})
        assert migrate(client) == []
        row = [100, "0100_other.sql", "of another time"]
        client.insert("schema_migrations", [row], column_names=columns, settings={"async_insert": 0})
        with pytest.raises(UserError, match=r"0100_other\.sql is unknown here"):
            migrate(client)
    finally:
        client.command(f"USE {DEFAULT_DATABASE}")


def test_on_a_cluster_every_table_is_replicated_and_every_statement_is_sql(client: Client) -> None:
    statements = [statement for migration in all_migrations() for statement in migration.statements]
    for statement in statements:
        on_replicas = on_cluster(statement, "main")
        assert client.query(f"EXPLAIN AST {on_replicas}").result_rows
        assert " ON CLUSTER main" in on_replicas
        assert on_replicas.count("ENGINE = ReplicatedReplacingMergeTree") == statement.count("MergeTree")
        assert on_cluster(statement, "") == statement
    assert sum("MergeTree" in statement for statement in statements) > 20


def test_texts_become_empty_after_their_time_and_figures_stay(client: Client) -> None:
    client.command("CREATE DATABASE IF NOT EXISTS brief")
    client.command("USE brief")
    try:
        migrate(client)
        keep_texts(client, 30)
        keep_texts(client, 30)
        row = ("old", "train", 3, "a long answer", 40, 10**18)
        columns = ("run", "split", "number", "text", "num_completion_tokens", "created")
        client.insert("rollouts", [row], column_names=columns, settings={})
        client.command("OPTIMIZE TABLE rollouts FINAL")
        query = "SELECT number, text, num_completion_tokens FROM rollouts FINAL"
        assert [tuple(row) for row in client.query(query).result_rows] == [(3, "", 40)]
        keep_texts(client, 0)
        for table, names in TEXTS.items():
            assert str(client.query(f"SHOW CREATE TABLE {table}").result_rows[0][0]).count("TTL") == len(names)
    finally:
        client.command(f"USE {DEFAULT_DATABASE}")


def test_a_row_that_comes_twice_counts_once_and_the_first_fact_wins(client: Client) -> None:
    table = TABLES[OUTCOMES.name]
    for rank in (2, 1, 2):
        rows = [table.to_row(make_outcome(number), rank) for number in range(3)]
        client.insert(table.name, rows, column_names=table.column_names, settings={})
    query = "SELECT number, fate, step, rewards FROM outcomes FINAL WHERE run = 'test' ORDER BY number"
    found = [tuple(row) for row in client.query(query).result_rows]
    assert found == [(number, "trained", 3, [0.0, 1.0]) for number in range(3)]


def test_reflection_words_are_whole_words() -> None:
    assert count_reflection_words("Wait, the waiter is waiting. Let me re-check.") == {"wait": 2, "re-check": 1}
    assert count_reflection_words("") == {}
