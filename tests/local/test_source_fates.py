"""What becomes of each source's groups, in words: drops by reason, all wrong answers with one to look at, pauses."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tristream.local.source_fates import SourceFates, describe_fates, fate_from_page, fates_from_measures

ROW: dict[str, Any] = {
    "source": "sums", "num_groups": 64, "num_all_wrong": 48, "dropped": {"zero_variance": 48, "stale": 4}, "paused": "",
    "answer": {"number": 7, "prompt": "What is 1 + 4?", "text": "1 + 4 = 5", "error": "", "truth": r"\boxed{5}"},
}  # fmt: skip


@pytest.fixture
def page() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps([ROW]).encode()
            self.send_response(200 if self.path == "/api/sources" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_source_whose_answers_are_all_wrong_is_described_with_an_answer() -> None:
    assert describe_fates([fate_from_page(ROW)]) == [
        "sums: 75% zero variance, 6% stale of its newest groups dropped; 75% all wrong",
        r'  answered "1 + 4 = 5", wanted "\boxed{5}"',
    ]


def test_a_source_that_does_well_is_not_described() -> None:
    row = ROW | {"num_all_wrong": 3, "dropped": {"zero_variance": 10}}
    assert describe_fates([fate_from_page(row)]) == []
    few = ROW | {"num_groups": 3, "num_all_wrong": 3, "dropped": {"zero_variance": 3}}
    assert describe_fates([fate_from_page(few)]) == []


def test_a_paused_source_is_described_first_with_its_reason() -> None:
    paused = fate_from_page(ROW | {"source": "boxes", "paused": "its last 64 groups were dropped as incomplete"})
    lines = describe_fates([fate_from_page(ROW), paused])
    assert lines[0].startswith("boxes is paused: its last 64 groups were dropped as incomplete; 75% zero variance")
    assert lines[2].startswith("sums: ")


def test_of_a_long_answer_the_end_is_shown_in_one_line() -> None:
    long = ROW | {"answer": ROW["answer"] | {"text": "so\n" * 100 + "12"}}
    line = describe_fates([fate_from_page(long)])[1]
    assert line.startswith('  answered "... ')
    assert 'so 12", wanted' in line
    assert len(line) < 150


def test_no_more_than_a_few_sources_are_described() -> None:
    fates = [fate_from_page(ROW | {"source": f"s{number}"}) for number in range(9)]
    lines = describe_fates(fates)
    assert len(lines) == 7
    assert lines[-1] == "and 6 more sources"


def test_the_page_is_asked_and_without_it_the_dispatcher_is_believed(page: str) -> None:
    measures = {"paused/sums": 1.0, "drops/sums/unscored": 0.5, "drops/sums/stale": 0.0, "version": 3.0}
    fates = SourceFates()
    (without,) = fates.update("", measures)
    assert (without.source, without.dropped, bool(without.paused)) == ("sums", {"unscored": 0.5}, True)
    (told,) = fates.update(page, measures)
    assert told.answer == "1 + 4 = 5"
    assert fates.update("", measures) == [told], "it is asked only now and then"
    assert SourceFates().update("http://127.0.0.1:1/", measures) == fates_from_measures(measures)
