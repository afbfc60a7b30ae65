"""The page and the report in a real browser: what people see is drawn, and nothing is reported as an error."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tristream.config.parts import MonitorSettings
from tristream.config.run_file import RunFile
from tristream.monitoring.page.server import serve_page
from tristream.monitoring.queries.overview import read_groups
from tristream.monitoring.queries.summary import read_summary
from tristream.monitoring.report import write_report
from tristream.monitoring.store.client import Client
from tristream.runtime.bus.memory import MemoryBus
from tristream.wire import topics
from tristream.wire.events import CommandKind, DropReason, Fate

pytestmark = pytest.mark.browser

NUM_SOURCES = 4
LINES = "document.querySelectorAll('#source-curves .scatterlayer .js-line, #source-curves .scatterlayer .point').length"
PICTURES = "[...document.querySelectorAll('.picture img')].filter((image) => image.naturalWidth > 0).length"
RECTANGLES = "document.querySelectorAll('.picture rect').length"


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium that keeps what pages write to the console."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("chromium and chromedriver are not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    # What is off the screen is not drawn, so the screen is as tall as the page.
    metrics = {"width": 1440, "height": 6000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    yield driver
    driver.quit()


def wait_for(browser: Any, expression: str, least: int, timeout_seconds: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while (found := browser.execute_script(f"return {expression}")) < least:
        assert time.monotonic() < deadline, f"{expression} is {found}, not {least}; {browser.get_log('browser')}"
        time.sleep(0.1)


def assert_quiet(browser: Any) -> None:
    assert browser.get_log("browser") == []


def test_the_page_draws_curves_and_images_with_boxes(
    browser: Any, client: Client, example: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "close", lambda: None)
    page = serve_page(MonitorSettings.of(example), client)
    try:
        browser.get(page.url)
        wait_for(browser, LINES, 8 * NUM_SOURCES)
        wait_for(browser, PICTURES, 20)
        wait_for(browser, RECTANGLES, 2)
        assert "step 6 of 6" in browser.execute_script("return document.getElementById('progress-words').textContent")
        assert browser.execute_script("return document.querySelectorAll('#evaluation tbody tr').length") == 5
        assert browser.execute_script("return document.getElementById('trouble').hidden")
        assert browser.execute_script("return document.querySelectorAll('#parts tbody tr').length") == 7
        assert browser.execute_script("return document.querySelectorAll('#source-groups tbody tr').length") == 4
        assert browser.execute_script("return document.querySelectorAll('#source-groups .looked-at').length") == 0
        waits = browser.execute_script("return Status.waits(Live.status, ['producer', 'verifier'])")
        assert waits == "the producer (2 of 2) waits for prompts, the verifier is at work"
        assert_quiet(browser)
    finally:
        page.stop()


def test_a_page_without_events_says_what_it_waits_for(
    browser: Any, client: Client, settings: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "close", lambda: None)
    page = serve_page(MonitorSettings.of(settings), client)
    try:
        browser.get(page.url)
        wait_for(browser, "document.querySelectorAll('.empty').length", 7)
        text = browser.execute_script("return document.querySelector('.until-step').textContent")
        assert text == "No step yet: the assembler is not started, the learner is not started."
        assert_quiet(browser)
    finally:
        page.stop()


def test_a_source_that_is_answered_all_wrong_is_shown_with_an_answer(
    browser: Any, client: Client, settings: RunFile, bus: MemoryBus, recipe: Any, write: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(client, "close", lambda: None)
    for number in range(16):
        group = recipe.group(number)
        bus.publish(topics.PROMPTS, recipe.prompt(group))
        bus.publish(topics.ROLLOUTS, recipe.rollout(group, 0, text="<b>1 + 4 = 5</b>"))
        bus.publish(
            topics.OUTCOMES, recipe.outcome(group, Fate.DROPPED, 0, DropReason.ZERO_VARIANCE, [0.0] * group.size)
        )
    write()
    page = serve_page(MonitorSettings.of(settings), client)
    try:
        browser.get(page.url)
        wait_for(browser, "document.querySelectorAll('#source-groups .looked-at').length", 1)
        row = browser.execute_script("return document.querySelector('#source-groups tbody tr').textContent")
        assert row == "digits_sum100 %100 %100 % zero variance16"
        said = browser.execute_script("return document.querySelectorAll('#source-groups dd')[1].textContent")
        assert said == "<b>1 + 4 = 5</b>"
        assert_quiet(browser)
    finally:
        page.stop()


def test_a_script_in_a_models_answer_is_shown_and_not_run(
    browser: Any, client: Client, settings: RunFile, bus: MemoryBus, recipe: Any, write: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(client, "close", lambda: None)
    evil = "<img src=x onerror=\"document.title='evil'\"><script>document.title='evil'</script>"
    bus.publish(topics.ROLLOUTS, recipe.rollout(recipe.group(0), 0, text=evil))
    bus.publish(topics.REWARDS, recipe.reward(recipe.group(0), 0, 1.0))
    write()
    page = serve_page(MonitorSettings.of(settings), client)
    try:
        browser.get(page.url)
        wait_for(browser, "document.querySelectorAll('.says dd').length", 2)
        assert browser.execute_script("return document.querySelector('.says dd').textContent") == evil
        assert browser.title == f"{settings.run.id} · tristream"
    finally:
        page.stop()


def test_changes_are_marked_in_every_chart_of_steps(
    browser: Any, client: Client, settings: RunFile, bus: MemoryBus, recipe: Any, make_run: Callable[..., None],
    write: Callable[[], object], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(client, "close", lambda: None)
    make_run(bus, 6)
    changes = {"verifier": "<i>brief", "from_number": 12}
    bus.publish(topics.COMMANDS, recipe.command(id="p/from/12", kind=CommandKind.PROMOTE, **changes))
    write()
    page = serve_page(MonitorSettings.of(settings), client)
    try:
        browser.get(page.url)
        wait_for(browser, "document.querySelectorAll('#source-curves .shapelayer path').length", 8)
        wait_for(browser, "document.querySelectorAll('#evaluation-chart .shapelayer path').length", 1)
        texts = "return [...document.querySelectorAll('{}')].map((found) => found.textContent)"
        labels = browser.execute_script(texts.format("#source-curves .annotation-text"))
        assert "promote <i>brief@1" in labels
        rows = browser.execute_script(texts.format("#changes tbody tr"))
        assert any(row.startswith("promote <i>brief@1") for row in rows)
        assert_quiet(browser)
    finally:
        page.stop()


def test_the_report_draws_the_same_from_its_file(
    browser: Any, client: Client, example: RunFile, tmp_path: Path
) -> None:
    facts = read_summary(client, example.run.id)
    summary = {
        "steps": facts["steps"],
        "sources": facts["sources"],
        "groups": read_groups(client, example.run.id),
        "seconds": {"ready": 3.0, "total": 27.0, "learner_wait": 6.0},
    }
    path = tmp_path / "report.html"
    write_report(client, example, summary, path)
    browser.get(path.as_uri())
    wait_for(browser, LINES, 8 * NUM_SOURCES)
    wait_for(browser, PICTURES, 3 * NUM_SOURCES)
    wait_for(browser, RECTANGLES, 2)
    assert browser.execute_script("return document.querySelectorAll('#evaluation tbody tr').length") == 5
    assert_quiet(browser)
