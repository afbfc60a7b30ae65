"""The page over real HTTP: what each path answers, and what it refuses."""

import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tristream.config.parts import MonitorSettings
from tristream.config.run_file import RunFile
from tristream.monitoring.page.answer_cache import AnswerCache, Lane
from tristream.monitoring.page.server import Page, serve_page
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.run_facts import write_sources
from tristream.monitoring.store.writer import Writer
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.runtime.store import BlobStore
from tristream.wire import topics
from tristream.wire.events import Part

Serve = Callable[[RunFile], Page]


@pytest.fixture
def serve(client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    monkeypatch.setattr(client, "close", lambda: None)  # the engine is the whole test session's
    pages: list[Page] = []

    def start(settings: RunFile) -> Page:
        pages.append(serve_page(MonitorSettings.of(settings), client))
        return pages[-1]

    yield start
    for page in pages:
        page.stop()


@pytest.fixture
def page(serve: Serve, example: RunFile) -> Page:
    return serve(example)


def fetch(page: Page, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(page.url + target.removeprefix("/"), method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def fetch_json(page: Page, target: str) -> Any:
    status, headers, body = fetch(page, target)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    return json.loads(body)


def test_the_document_and_all_files_it_names_are_served_from_here(page: Page) -> None:
    status, headers, body = fetch(page, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    html = body.decode()
    assert "http" not in html.replace("http-equiv", "")
    names = [part.split('"')[0] for part in html.split('"/assets/')[1:]]
    assert "plotly.min.js" in names
    for name in names:
        assert fetch(page, f"/assets/{name}")[0] == 200


def test_every_answer_forbids_the_browser_to_ask_elsewhere(page: Page) -> None:
    for target in ("/", "/api/head", "/assets/page.js", "/nowhere", "/api/images/no"):
        headers = fetch(page, target)[1]
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_head_tells_where_the_run_stands(page: Page) -> None:
    head = fetch_json(page, "/api/head")
    assert (head["step"]["step"], head["settings"]["total_steps"]) == (6, 6)
    assert head["settings"]["sources"][0] == {"name": "digits_read", "metric": "accuracy"}
    assert set(fetch_json(page, "/api/evaluation")["evaluation"]) == {
        "digits_read",
        "digits_count",
        "digits_sum",
        "digits_find",
    }


def test_curves_and_layers_have_every_step(page: Page) -> None:
    curves = fetch_json(page, "/api/curves")
    assert curves["metrics"]["loss"]["x"] == [1, 2, 3, 4, 5, 6]
    assert len(fetch_json(page, "/api/layers")) == 4


def test_rollouts_are_of_the_source_and_number_asked_for(page: Page) -> None:
    found = fetch_json(page, "/api/rollouts?source=digits_find&limit=5")
    assert [rollout["source"] for rollout in found["rollouts"]] == ["digits_find"] * 5
    older = fetch_json(page, f"/api/rollouts?source=digits_find&limit=5&cursor={found['next']}")
    keys = [(row["split"], row["eval_step"], row["number"]) for row in (*found["rollouts"], *older["rollouts"])]
    assert len(set(keys)) == 10
    assert len({rollout["source"] for rollout in fetch_json(page, "/api/rollouts?split=train")["rollouts"]}) == 4


def test_a_rollout_is_served_by_its_key(page: Page) -> None:
    found = fetch_json(page, "/api/rollout?key=train/0/0/3/1")
    assert (found["source"], found["number"], found["rollout_index"]) == ("digits_find", 3, 1)
    assert [one["verifier"] for one in found["verdicts"]] == ["detection"]
    assert len(found["siblings"]) == 4


def test_the_head_needs_no_curves(page: Page) -> None:
    head = fetch_json(page, "/api/head")
    assert (head["step"]["step"], head["settings"]["total_steps"]) == (6, 6)
    assert 0 < head["reward"] < 1
    assert head["work"]["num_rollouts"] > 6 * 32
    assert not {"evaluation", "groups", "verifiers"} & set(head)


def test_another_run_of_the_database_is_served_beside(page: Page, settings: RunFile, client: Client) -> None:
    write_sources(Writer(client, settings.run.id, report=print), settings.run.id, settings.sources)
    assert {"example", settings.run.id} <= {row["run"] for row in fetch_json(page, "/api/runs")}
    other = fetch_json(page, f"/api/evaluation?run={settings.run.id}")
    assert ([source["name"] for source in other["sources"]], other["evaluation"]) == (
        ["digits_read", "digits_count", "digits_sum", "digits_find"], {},
    )  # fmt: skip
    assert fetch_json(page, f"/api/curves?parts=learner&run={settings.run.id}")["metrics"] == {}


def test_a_slow_lane_does_not_hold_up_the_head() -> None:
    answers = AnswerCache(Unused(), Unused())
    asked, goes_on = threading.Event(), threading.Event()

    def search(_client: Client) -> str:
        asked.set()
        goes_on.wait(20)
        return "found"

    slow = threading.Thread(target=answers.get_json, args=("rollouts", search, Lane.ROLLOUTS))
    slow.start()
    assert asked.wait(20)
    assert answers.get_json("head", lambda _client: "here", Lane.HEAD) == b'"here"'
    goes_on.set()
    slow.join()


class Unused:
    """A client that nobody asks."""

    def query(self, query: str, parameters: dict[str, Any] | None = None) -> Any:
        raise AssertionError(query)

    def command(self, cmd: str, parameters: dict[str, Any] | None = None) -> object:
        raise AssertionError(cmd)

    def insert(self, table: str, data: Any, column_names: Any, settings: dict[str, Any]) -> object:
        raise AssertionError(table)

    def close(self) -> None:
        """Nothing is open."""


def test_an_image_is_served_as_it_was(page: Page) -> None:
    digest = fetch_json(page, "/api/rollouts?limit=1")["rollouts"][0]["image_hashes"][0]
    status, headers, body = fetch(page, f"/api/images/{digest}")
    assert (status, headers["Content-Type"], body[:4]) == (200, "image/png", b"\x89PNG")


def test_an_image_in_the_store_is_served_and_a_missing_one_is_not_found(
    serve: Serve, settings: RunFile, client: Client
) -> None:
    address = settings.store.address(settings.run.folder)
    image = BlobStore(address, inline_limit_bytes=0).put_image(b"GIF89a", "image/gif")
    columns = ["run", "sha256", "media_type", "uri", "data_base64"]
    gone = ["f" * 64, "image/gif", f"{address}/images/gone", ""]
    rows = [[settings.run.id, image.sha256, "image/gif", image.uri, ""], [settings.run.id, *gone]]
    client.insert("images", rows, column_names=columns, settings={})
    page = serve(settings)
    assert fetch(page, f"/api/images/{image.sha256}")[2] == b"GIF89a"
    assert fetch(page, f"/api/images/{'f' * 64}")[0] == 404


def test_an_image_that_says_it_is_a_document_is_not_served_as_one(
    serve: Serve, settings: RunFile, client: Client
) -> None:
    row = [settings.run.id, "a" * 64, "text/html", "", "PHNjcmlwdD4="]
    columns = ["run", "sha256", "media_type", "uri", "data_base64"]
    client.insert("images", [row], column_names=columns, settings={})
    status, headers, _ = fetch(serve(settings), f"/api/images/{'a' * 64}")
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")


def test_the_status_names_every_process_and_what_it_waits_for(
    serve: Serve, settings: RunFile, bus: MemoryBus, recipe: Any, write: Callable[[], object]
) -> None:
    bus.publish(topics.PARTS, recipe.part(Part.LEARNER, waiting_for="a batch", measures={"version": 3}))
    bus.publish(topics.PARTS, recipe.part(Part.PRODUCER, "host-1"))
    bus.publish(topics.PARTS, recipe.part(Part.PRODUCER, "other-host-1"))
    write()
    parts = fetch_json(serve(settings), "/api/status")["parts"]
    assert [(part["part"], part["instance"]) for part in parts] == [
        ("dispatcher", ""), ("producer", "host-1"), ("producer", "other-host-1"), ("verifier", ""),
        ("assembler", ""), ("learner", "host-learner"), ("monitor", ""),
    ]  # fmt: skip
    assert (parts[0]["state"], parts[1]["state"]) == ("not started", "ready")
    assert (parts[5]["waiting_for"], parts[5]["measures"]) == ("a batch", {"version": 3})


def test_a_run_without_events_has_answers_too(serve: Serve, settings: RunFile) -> None:
    page = serve(settings)
    assert fetch_json(page, "/api/head")["step"]["num_steps"] == 0
    assert fetch_json(page, "/api/curves")["metrics"] == {}
    assert fetch_json(page, "/api/layers") == {}
    assert fetch_json(page, "/api/rollouts") == {"rollouts": [], "next": "", "hint": ""}


@pytest.mark.parametrize(
    ("target", "status", "error"),
    [
        ("/api/rollouts?limit=many", 400, "limit must be a whole number from 1 to 100"),
        ("/api/rollouts?limit=0", 400, "limit must be a whole number from 1 to 100"),
        ("/api/rollouts?limit=1&limit=2", 400, "a parameter is given twice"),
        ("/api/rollouts?source=other", 400, "source must be empty or one of digits_read"),
        ("/api/head?run=other", 400, "unknown parameter 'run'"),
        ("/api/rollouts?status=odd", 400, "status must be empty or one of judged, waiting, scored"),
        ("/api/rollouts?min_reward=nan", 400, "min_reward must be a number, such as 0.5"),
        ("/api/rollouts?first_step=-1", 400, "first_step must be a whole number from 0"),
        ("/api/rollouts?cursor=1", 400, "cursor must be empty or the 'next' of an answer"),
        (f"/api/rollouts?text={'x' * 201}", 400, "text must have at most 200 characters"),
        ("/api/rollout?key=train/1", 400, "key must be SPLIT/EVAL_STEP/EVAL_ATTEMPT/NUMBER/INDEX"),
        ("/api/rollout?key=train/0/0/99999/0", 404, "no such rollout in this run"),
        ("/api/curves?parts=all", 400, "parts must be some of main,more,components,learner, not 'all'"),
        ("/api/curves?points=1", 400, "points must be a whole number from 2 to 2000"),
        ("/api/curves?run=nowhere", 404, "no such run in this database"),
        ("/api/images/../../etc/passwd", 400, "an image is named by the 64 hex digits of its sha256"),
        (f"/api/images/{'0' * 64}", 404, "no such image in this run"),
        ("/assets/../page.py", 404, "no such file"),
        ("/assets/page.html", 404, "no such file"),
        ("/other", 404, "no such page"),
    ],
)
def test_a_wrong_request_gets_one_clear_line(page: Page, target: str, status: int, error: str) -> None:
    found, headers, body = fetch(page, target)
    assert (found, headers["Content-Type"]) == (status, "application/json")
    assert json.loads(body)["error"].startswith(error)


def test_a_method_that_writes_is_refused_as_json(page: Page) -> None:
    status, _, body = fetch(page, "/api/head", method="POST")
    assert status == 501
    assert "POST" in json.loads(body)["error"]


def test_a_head_request_has_no_body(page: Page) -> None:
    status, headers, body = fetch(page, "/healthz", method="HEAD")
    assert (status, int(headers["Content-Length"]), body) == (200, 11, b"")


def test_health_needs_no_database(page: Page, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(client, "query", fail)
    assert fetch_json(page, "/healthz") == {"ok": True}
    status, _, body = fetch(page, "/api/head")
    assert (status, json.loads(body)["error"].split(";")[0]) == (503, "the database does not answer")


def test_a_busy_port_is_an_error_that_names_it(example: RunFile, client: Client) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monitoring = example.monitoring.model_copy(update={"http_port": port})
        settings = MonitorSettings.of(example).model_copy(update={"monitoring": monitoring})
        with pytest.raises(UserError, match=f"monitoring.http_port: port {port} is in use"):
            serve_page(settings, client)


def test_an_address_of_another_machine_is_an_error_that_names_it(example: RunFile, client: Client) -> None:
    monitoring = example.monitoring.model_copy(update={"http_host": "192.0.2.1"})
    settings = MonitorSettings.of(example).model_copy(update={"monitoring": monitoring})
    with pytest.raises(UserError, match=r"monitoring.http_host: '192.0.2.1' is not an address"):
        serve_page(settings, client)


def test_a_script_in_a_models_answer_leaves_only_as_json(
    serve: Serve, settings: RunFile, bus: MemoryBus, recipe: Any, write: Callable[[], object]
) -> None:
    group, text = recipe.group(0), "</script><script>alert(1)</script>"
    bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, text=text))
    bus.publish(topics.REWARDS, recipe.reward(group, 0, 1.0))
    write()
    page = serve(settings)
    assert fetch_json(page, "/api/rollouts")["rollouts"][0]["text"] == text
    assert b"alert(1)" not in fetch(page, "/")[2]


def test_ten_tabs_cost_one_query(client: Client) -> None:
    answers, counted = AnswerCache(client), []

    def compute(_client: Client) -> int:
        counted.append(1)
        return len(counted)

    tabs = [threading.Thread(target=answers.get_json, args=("overview", compute)) for _ in range(10)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert (len(counted), answers.get_json("overview", compute), answers.get_json("curves", compute)) == (1, b"1", b"2")


def test_stopping_frees_the_port_and_closes_the_client(
    client: Client, settings: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(client, "close", lambda: closed.append(True))
    page = serve_page(MonitorSettings.of(settings), client)
    port = int(page.url.rstrip("/").rpartition(":")[2])
    page.stop()
    assert closed == [True]
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
