"""Held-out rounds are announced once, when the page has them whole."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tristream.local.held_out import HeldOut, complete_rounds


def row(step: int, value: float, complete: bool = True, attempt: int = 0) -> dict[str, object]:
    return {"eval_step": step, "eval_attempt": attempt, "value": value, "is_complete": complete}


class Page:
    """A server that answers as the live page does."""

    def __init__(self) -> None:
        self.sources: dict[str, dict[str, Any]] = {}
        self.num_requests = 0
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page.num_requests += 1
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"evaluation": page.sources}).encode())

            def log_message(self, *args: object) -> None:
                """Keep quiet."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page()
    thread = threading.Thread(target=page.server.serve_forever)
    thread.start()
    yield page
    page.server.shutdown()
    thread.join()
    page.server.server_close()


@pytest.fixture(autouse=True)
def ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tristream.local.held_out.ASK_SECONDS", 0.0)


def test_a_round_counts_once_all_sources_have_completed_it() -> None:
    sources = {
        "read": {"rounds": [row(0, 0.25), row(10, 0.5)]},
        "sum": {"rounds": [row(0, 0.75), row(10, 0.5, complete=False)]},
    }
    assert complete_rounds(sources) == {(0, 0): {"read": 0.25, "sum": 0.75}}


def test_a_round_is_announced_once_and_the_page_is_left_alone_until_the_next(page: Page) -> None:
    said: list[str] = []
    rounds = HeldOut(said.append)
    rounds.update(page.url, 0)
    assert page.num_requests == 0
    rounds.update(page.url, 1)  # the page does not have it yet
    assert (page.num_requests, said) == (1, [])
    page.sources = {"read": {"rounds": [row(0, 0.25)]}, "sum": {"rounds": [row(0, 0.75)]}}
    for _ in range(3):
        rounds.update(page.url, 1)
    assert (page.num_requests, said) == (2, ["held-out at step 0: mean 0.500 (read 0.250, sum 0.750)"])
    page.sources["read"]["rounds"].append(row(10, 0.5))
    page.sources["sum"]["rounds"].append(row(10, 1.0))
    rounds.update(page.url, 2)
    assert said[1:] == ["held-out at step 10: mean 0.750 (read 0.500, sum 1.000)"]


def test_a_resumed_run_waits_for_the_new_round_although_the_page_shows_older_ones(page: Page) -> None:
    said: list[str] = []
    rounds = HeldOut(said.append)
    page.sources = {"read": {"rounds": [row(0, 0.25), row(10, 0.5)]}}
    rounds.update(page.url, 1)
    page.sources["read"]["rounds"].append(row(20, 0.75))
    rounds.update(page.url, 1)
    assert said[-1] == "held-out at step 20: mean 0.750 (read 0.750)"


def test_a_page_that_never_has_the_round_is_not_asked_for_ever(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tristream.local.held_out.PATIENCE_SECONDS", 0.0)
    said: list[str] = []
    HeldOut(said.append).update(page.url, 1)
    assert (page.num_requests, said) == (0, [])


def test_a_version_that_was_trained_anew_is_announced_anew(page: Page) -> None:
    said: list[str] = []
    rounds = HeldOut(said.append)
    page.sources = {"read": {"rounds": [row(10, 0.25)]}}
    rounds.update(page.url, 1)
    page.sources = {"read": {"rounds": [row(10, 0.5, attempt=1)]}}
    rounds.update(page.url, 2)
    assert said == [
        "held-out at step 10: mean 0.250 (read 0.250)",
        "held-out at step 10, trained anew: mean 0.500 (read 0.500)",
    ]
