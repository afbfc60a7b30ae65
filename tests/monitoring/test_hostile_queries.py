"""Queries that try to do more than to read the database: each is refused, and nothing happened."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tristream.monitoring.http_queries.engine import Answer, Query, QueryEngine
from tristream.monitoring.http_queries.guard import READONLY, RefusedError
from tristream.monitoring.store.clickhouse import DEFAULT_DATABASE

SECRET = "a text that is nobody's business"


@pytest.fixture(scope="module")
def engine(client: Any) -> Iterator[QueryEngine]:
    opened = QueryEngine(Path(client.path))
    yield opened
    opened.close()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret.csv"
    path.write_text(f"{SECRET}\n1\n")
    return path


def ask(engine: QueryEngine, text: str, **options: Any) -> Answer:
    return engine.run(Query(text=text, **{"database": DEFAULT_DATABASE, "output_format": "TSV", **options}))


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM file('{path}', 'LineAsString')",
        "SELECT file('{path}')",
        "SELECT FILE('{path}')",
        "SELECT `file`('{path}')",
        "SELECT \"file\"('{path}')",
        "SELECT /* */ file /* */ ('{path}')",
        "SELECT length(file('{path}'))",
        "WITH (SELECT file('{path}')) AS x SELECT x",
        "DESCRIBE TABLE file('{path}', 'CSVWithNames')",
        "DESC file('{path}', 'CSVWithNames')",
        "EXPLAIN SELECT * FROM file('{path}', 'CSVWithNames')",
        "SELECT * FROM view(SELECT * FROM file('{path}', 'LineAsString'))",
        "SELECT * FROM loop(file('{path}', 'LineAsString')) LIMIT 1",
        "SELECT * FROM eval('SELECT file(''{path}'')')",
        "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT 1))",
        "SELECT * FROM (SELECT * FROM file('{path}', 'LineAsString') SETTINGS readonly = 0)",
        "SELECT * FROM sqlite('{path}', 't')",
        "SELECT * FROM executable('cat {path}', 'TSV', 'a String')",
        "SELECT * FROM python('x')",
        "SELECT * FROM icebergLocal('{path}')",
        "SELECT * FROM merge('system', '.*')",
        "INSERT INTO runs FROM INFILE '{path}' FORMAT TSV",
    ],
)
def test_no_query_reads_a_file(engine: QueryEngine, secret: Path, text: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        ask(engine, text.replace("{path}", str(secret)))
    assert refusal.value.code == READONLY
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1 INTO OUTFILE '{path}'",
        "select 1 into /* */ outfile '{path}' truncate",
        "EXPLAIN SELECT 1 INTO OUTFILE '{path}'",
        "SHOW TABLES INTO OUTFILE '{path}'",
        "INSERT INTO FUNCTION file('{path}', 'CSV') SELECT 1",
    ],
)
def test_no_query_writes_a_file(engine: QueryEngine, tmp_path: Path, text: str) -> None:
    path = tmp_path / "written"
    with pytest.raises(RefusedError) as refusal:
        ask(engine, text.replace("{path}", str(path)))
    assert refusal.value.code == READONLY
    assert not path.exists()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM url('http://127.0.0.1:{port}/x', 'LineAsString')",
        "DESCRIBE TABLE url('http://127.0.0.1:{port}/x')",
        "SELECT * FROM s3('http://127.0.0.1:{port}/bucket/x', 'CSV', 'a String')",
        "DESC s3('http://127.0.0.1:{port}/bucket/x')",
        "SELECT * FROM remote('127.0.0.1:{port}', system.one)",
        "SELECT * FROM mysql('127.0.0.1:{port}', 'd', 't', 'u', 'p')",
        "SELECT * FROM postgresql('127.0.0.1:{port}', 'd', 't', 'u', 'p')",
        "SELECT * FROM redis('127.0.0.1:{port}', 'k', 'k String')",
        "SELECT aiGenerate('x')",
        "SELECT AIEmbed('x')",
    ],
)
def test_no_query_reaches_the_network(engine: QueryEngine, text: str) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.05)
        with pytest.raises(RefusedError) as refusal:
            ask(engine, text.replace("{port}", str(listener.getsockname()[1])))
        assert refusal.value.code == READONLY
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    "text",
    [
        "SET readonly = 0",
        "SET readonly = DEFAULT",
        "SET profile = 'default'",
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1 SETTINGS readonly = 2",
        "SELECT 1 SETTINGS max_threads = 8",
        "SELECT 1 SETTINGS profile = 'default'",
        "SELECT * FROM (SELECT 1 SETTINGS max_memory_usage = 0)",
        "SELECT 1 FORMAT JSON SETTINGS readonly = 0",
        "KILL QUERY WHERE 1",
        "SYSTEM SHUTDOWN",
        "USE system",
        "CREATE TABLE hostile (a UInt8) ENGINE = Memory",
        "CREATE TEMPORARY TABLE hostile (a UInt8)",
        "CREATE FUNCTION hostile AS x -> x",
        "ATTACH TABLE hostile",
        "DROP TABLE steps",
        "TRUNCATE TABLE steps",
        "ALTER TABLE steps DELETE WHERE 1",
        "OPTIMIZE TABLE steps FINAL",
        "INSERT INTO steps (run) VALUES ('x')",
        "BACKUP TABLE steps TO File('/tmp/backup')",
        "GRANT ALL ON *.* TO default",
        "EXECUTE AS default SELECT 1",
        "SHOW PROCESSLIST",
        "SELECT query FROM system.processes",
        "SELECT * FROM `system`.`stack_trace`",
        "SELECT 1 IN system.stack_trace",
        "SELECT * FROM system.{table:Identifier}",
        "SELECT sleep(3)",
        "SELECT getServerSetting('max_connections')",
    ],
)
def test_no_query_changes_settings_or_looks_at_others(engine: QueryEngine, text: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        ask(engine, text)
    assert refusal.value.code == READONLY


def test_a_second_statement_is_refused_before_the_first_is_run(engine: QueryEngine, tmp_path: Path) -> None:
    path = tmp_path / "written"
    for text in (f"SELECT 1; SELECT 2 INTO OUTFILE '{path}'", "SELECT 1; SET readonly = 0", "SELECT 1;;SELECT 2"):
        with pytest.raises(RefusedError):
            ask(engine, text)
    assert not path.exists()


def test_settings_of_the_client_that_lift_a_limit_are_left_out(engine: QueryEngine, secret: Path) -> None:
    lifting = {
        "readonly": "0",
        "max_threads": "64",
        "max_memory_usage": "0",
        "max_execution_time": "0",
        "allow_ddl": "1",
    }
    names = "'readonly', 'max_threads', 'max_execution_time'"
    shown = f"SELECT name, value FROM system.settings WHERE name IN ({names}) ORDER BY name"
    assert ask(engine, shown, settings=lifting).body == b"max_execution_time\t30\nmax_threads\t1\nreadonly\t1\n"
    with pytest.raises(RefusedError):
        ask(engine, f"SELECT * FROM file('{secret}', 'LineAsString')", settings=lifting)


def test_a_harmless_setting_is_followed_and_its_value_cannot_end_the_statement(engine: QueryEngine) -> None:
    assert ask(engine, "SELECT number FROM numbers(5)", settings={"limit": "2"}).body == b"0\n1\n"
    assert ask(engine, "SELECT getSetting('max_execution_time')", settings={"max_execution_time": "7"}).body == b"7\n"
    with pytest.raises(RefusedError):
        ask(engine, "SELECT 1", settings={"session_timezone": "UTC'; SET readonly = 0; SELECT '"})


def test_nothing_of_a_query_is_left_for_the_next_one(engine: QueryEngine) -> None:
    assert ask(engine, "SELECT currentDatabase()", database="default").body == b"default\n"
    assert ask(engine, "SELECT currentDatabase()").body == b"tristream\n"


def test_the_database_of_the_system_is_not_the_readers(engine: QueryEngine) -> None:
    for name in ("system", "SYSTEM", "information_schema", "INFORMATION_SCHEMA"):
        with pytest.raises(RefusedError):
            ask(engine, "SELECT * FROM stack_trace", database=name)
    with pytest.raises(RefusedError):
        ask(engine, "SELECT 1", database="x`; SET readonly = 0; --")


def test_a_query_that_takes_too_much_memory_or_time_ends_with_the_engines_error(engine: QueryEngine) -> None:
    with pytest.raises(RefusedError) as memory:
        ask(engine, "SELECT groupArray(number), groupArray(number + 1) FROM numbers(200000000)")
    with pytest.raises(RefusedError) as slow:
        ask(engine, "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)", settings={"max_execution_time": "1"})
    assert (memory.value.name, slow.value.name) == ("MEMORY_LIMIT_EXCEEDED", "TIMEOUT_EXCEEDED")


def test_ordinary_queries_are_answered_as_they_are_written(engine: QueryEngine) -> None:
    text = """
        -- a comment; with a semicolon, and INTO OUTFILE 'x'
        WITH 1 AS one
        SELECT one, 'a\\tb; SETTINGS readonly = 0' AS text, {x:UInt32} + 1 AS y, [1, 2][1] AS `file`,
            format('{}-{}', 1, 2)
        FROM numbers(2) AS n WHERE number IN (1, 2) /* file('x') */
    """
    answer = ask(engine, text, parameters={"x": "4"}, output_format="JSONCompactEachRow")
    assert answer.body == b'[1, "a\\tb; SETTINGS readonly = 0", 5, 1, "1-2"]\n'
    assert (answer.output_format, ask(engine, "SHOW TABLES FORMAT CSV").output_format) == ("JSONCompactEachRow", "CSV")
    for other in (
        "DESCRIBE TABLE steps",
        "SHOW CREATE TABLE steps",
        "EXPLAIN SELECT 1",
        "EXISTS TABLE steps",
        "SELECT 1;",
    ):
        assert ask(engine, other).body
