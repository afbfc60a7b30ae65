"""ClickHouse's HTTP protocol on the embedded engine: with clickhouse-connect, and byte by byte as curl and Grafana's
plugin speak it."""

import base64
import gzip
import http.client
import json
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from tristream.config.monitoring import MonitoringSection
from tristream.monitoring.http_queries import engine
from tristream.monitoring.http_queries.go_hello import HELLO
from tristream.monitoring.http_queries.server import HttpQueries, make_token, serve_queries
from tristream.runtime.run_folder import RunFolder

Serve = Callable[..., HttpQueries]


@pytest.fixture
def folder(client: Any, tmp_path: Path) -> RunFolder:
    """The folder of a run whose database is the engine of the test session."""
    made = RunFolder(tmp_path / "example")
    made.path.mkdir()
    made.clickhouse.symlink_to(client.path)
    return made


@pytest.fixture
def serve(folder: RunFolder) -> Iterator[Serve]:
    started: list[HttpQueries] = []

    def start(**monitoring: Any) -> HttpQueries:
        started.append(serve_queries(MonitoringSection(**monitoring), folder, "example"))
        return started[-1]

    yield start
    for queries in started:
        queries.stop()


@pytest.fixture
def queries(serve: Serve) -> HttpQueries:
    return serve()


def send(
    queries: HttpQueries, text: str = "", method: str = "POST", path: str = "/", headers: Any = None, **parameters: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", queries.port, timeout=30)
    target = f"{path}?{urlencode(parameters)}" if parameters else path
    try:
        connection.request(method, target, body=text.encode() if text else None, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.fixture
def connected(queries: HttpQueries) -> Iterator[Any]:
    opened = clickhouse_connect.get_client(host="127.0.0.1", port=queries.port, database="tristream")
    yield opened
    opened.close()


@pytest.mark.usefixtures("example")
def test_clickhouse_connect_reads_rows_of_every_kind(connected: Any) -> None:
    rows = connected.query(
        "SELECT source, count() AS n, max(created) AS last, groupArray(num_completion_tokens) AS lengths"
        " FROM rollouts FINAL WHERE run = {run:String} GROUP BY source ORDER BY source",
        parameters={"run": "example"},
    )
    assert rows.column_names == ("source", "n", "last", "lengths")
    assert [row[0] for row in rows.result_rows] == ["digits_count", "digits_find", "digits_read", "digits_sum"]
    assert all(row[1] == len(row[3]) > 0 for row in rows.result_rows)
    assert int(rows.summary["read_rows"]) > 0


def test_clickhouse_connect_binds_texts_with_all_signs(connected: Any) -> None:
    text = 'it\'s a "tab"\t, a line\nand a \\ and {x:String} and 7 €'
    assert connected.query("SELECT {text:String}", parameters={"text": text}).result_rows == [(text,)]
    assert connected.command("SELECT {number:Int64}", parameters={"number": -7}) == -7


def test_clickhouse_connect_makes_data_frames_and_streams(connected: Any) -> None:
    frame = connected.query_df("SELECT number AS n, toString(number) AS text FROM numbers(100000)")
    assert (len(frame), int(frame["n"].sum()), frame["text"].iloc[-1]) == (100_000, 4_999_950_000, "99999")
    with connected.query_row_block_stream("SELECT number FROM numbers(70000)") as blocks:
        assert sum(len(block) for block in blocks) == 70_000


def test_clickhouse_connect_gets_the_engines_error_with_its_code(connected: Any) -> None:
    with pytest.raises(DatabaseError) as missing:
        connected.query("SELECT * FROM nowhere")
    with pytest.raises(DatabaseError) as hostile:
        connected.command("DROP TABLE steps")
    assert (missing.value.code, hostile.value.code) == (60, 164)


def test_curl_asks_by_the_address_or_the_body_or_both(queries: HttpQueries) -> None:
    for answer in (
        send(queries, method="GET", query="SELECT 1 + 1"),
        send(queries, "SELECT 1 + 1"),
        send(queries, "+ 1", query="SELECT 1"),
    ):
        assert (answer[0], answer[2]) == (200, b"2\n")


def test_the_format_comes_from_the_text_the_header_or_the_address(queries: HttpQueries) -> None:
    status, headers, body = send(queries, "SELECT 1 AS x FORMAT JSON")
    assert (status, headers["content-type"], headers["x-clickhouse-format"]) == (200, "application/json", "JSON")
    assert json.loads(body)["data"] == [{"x": 1}]
    assert send(queries, "SELECT 1 AS x", default_format="JSONEachRow")[2] == b'{"x":1}\n'
    assert send(queries, "SELECT 1 AS x", headers={"X-ClickHouse-Format": "CSVWithNames"})[2] == b'"x"\n1\n'
    assert send(queries, "SELECT 1", default_format="Python")[0] == 404


def test_an_answer_carries_the_headers_of_the_protocol(queries: HttpQueries) -> None:
    _, headers, body = send(queries, "SELECT number FROM numbers(3)", query_id="my-query")
    summary = json.loads(headers["x-clickhouse-summary"])
    assert (summary["read_rows"], summary["result_bytes"]) == ("3", str(len(body)))
    assert int(summary["elapsed_ns"]) > 0
    assert (headers["x-clickhouse-query-id"], headers["x-clickhouse-timezone"]) == (
        "my-query",
        send(queries, "SELECT timezone()")[2].decode().strip(),
    )
    assert headers["x-clickhouse-server-display-name"] == "example"


def test_an_error_carries_its_code(queries: HttpQueries) -> None:
    for text, status, code in (
        ("SELECT nothing", 404, "47"),
        ("SELECT FROM WHERE", 400, "62"),
        ("DROP TABLE steps", 403, "164"),
    ):
        answer = send(queries, text)
        assert (answer[0], answer[1]["x-clickhouse-exception-code"]) == (status, code)
        assert answer[2].decode().startswith(f"Code: {code}. DB::Exception: ")
        assert answer[2].count(b"\n") == 1


def test_ping_and_the_root_say_ok(queries: HttpQueries) -> None:
    for path, method in (("/ping", "GET"), ("/", "GET"), ("/ping", "HEAD")):
        answer = send(queries, method=method, path=path)
        assert (answer[0], answer[2]) == (200, b"" if method == "HEAD" else b"Ok.\n")
    assert send(queries, method="GET", path="/play")[0] == 404


def test_an_answer_is_compressed_only_if_both_sides_say_gzip(queries: HttpQueries) -> None:
    text, gzipped = "SELECT number FROM numbers(10000)", {"Accept-Encoding": "gzip, deflate"}
    plain = send(queries, text, headers=gzipped)[2]
    _, headers, body = send(queries, text, headers=gzipped, enable_http_compression="1")
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(body) == plain
    assert send(queries, text, headers={"Accept-Encoding": "zstd"}, enable_http_compression="1")[2] == plain


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [
        ({"Content-Encoding": "gzip"}, {}),
        ({"Content-Type": "multipart/form-data; boundary=x"}, {}),
        ({}, {"compress": "1"}),
        ({}, {"decompress": "1"}),
    ],
)
def test_what_is_not_spoken_here_is_refused_in_words(queries: HttpQueries, headers: Any, parameters: Any) -> None:
    status, answered, body = send(queries, "SELECT 1", headers=headers, **parameters)
    assert (status, answered["x-clickhouse-exception-code"]) == (501, "48")
    assert b"NOT_IMPLEMENTED" in body


def test_a_query_that_is_too_long_or_of_unknown_length_is_not_read(queries: HttpQueries) -> None:
    assert send(queries, "SELECT 1 -- " + "x" * 300_000)[1]["x-clickhouse-exception-code"] == "307"
    chunked = send(queries, headers={"Transfer-Encoding": "chunked"}, path="/?query=SELECT%201")
    assert chunked[1]["x-clickhouse-exception-code"] == "381"


def test_the_token_is_asked_for_where_others_can_come_in(serve: Serve, folder: RunFolder) -> None:
    queries = serve(http_host="0.0.0.0")
    token = folder.query_token.read_text()
    assert stat.S_IMODE(folder.query_token.stat().st_mode) == 0o600
    basic = base64.b64encode(f"anybody:{token}".encode()).decode()
    for headers, parameters in (
        ({"Authorization": f"Basic {basic}"}, {}),
        ({"Authorization": f"Bearer {token}"}, {}),
        ({"X-ClickHouse-User": "anybody", "X-ClickHouse-Key": token}, {}),
        ({}, {"user": "anybody", "password": token}),
    ):
        assert send(queries, "SELECT 1", headers=headers, **parameters)[2] == b"1\n"
    for headers in ({}, {"Authorization": "Basic !"}, {"Authorization": "Bearer x"}, {"X-ClickHouse-Key": token[:-1]}):
        status, answered, body = send(queries, "SELECT 1", headers=headers)
        assert (status, answered["x-clickhouse-exception-code"]) == (403, "516")
        assert token[:8].encode() not in body
    assert send(queries, method="GET", path="/ping")[0] == 200


def test_the_token_outlasts_the_process(folder: RunFolder) -> None:
    first = make_token(folder)
    assert (make_token(folder), len(first) > 40) == (first, True)
    folder.query_token.write_text("")
    assert make_token(folder) not in ("", first)


def test_a_page_of_a_browser_under_another_name_gets_nothing(queries: HttpQueries) -> None:
    status, headers, _ = send(queries, "SELECT 1", headers={"Host": f"evil.example:{queries.port}"})
    assert (status, headers["x-clickhouse-exception-code"]) == (403, "516")


def test_the_greeting_of_grafanas_plugin_is_answered_in_its_revision_and_names_none(queries: HttpQueries) -> None:
    native = {"default_format": "Native", "client_protocol_version": "54460"}
    body = send(queries, HELLO, **native)[2]
    assert body.startswith(b"\x01\x00\x02\xff\xff\xff\xff\x00\x04\x01\x0ddisplayName()\x06String\x00\x07example")
    assert b"\x0arevision()\x06UInt32\x00\x00\x00\x00\x00" in body
    assert send(queries, "SELECT 1", **native)[2] == b"\x01\x01\x011\x05UInt8\x01"


def test_queries_wait_for_one_another_and_not_the_sink(queries: HttpQueries, client: Any) -> None:
    answers: list[bytes] = []
    waiting = threading.Thread(target=lambda: answers.append(send(queries, "SELECT 1")[2]), daemon=True)
    with queries.engine.one_at_a_time:
        waiting.start()
        assert client.query("SELECT count() FROM steps").result_rows
        assert send(queries, path="/ping", method="GET")[2] == b"Ok.\n"
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(30)
    assert answers == [b"1\n"]


def test_a_query_that_waits_too_long_for_others_is_told_so(
    queries: HttpQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "WAIT_SECONDS", 0.05)
    with queries.engine.one_at_a_time:
        status, headers, _ = send(queries, "SELECT 1")
    assert (status, headers["x-clickhouse-exception-code"]) == (500, "202")
