"""The dialog on the live page, in a real browser."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tristream.config.parts import MonitorSettings
from tristream.config.run_file import RunFile
from tristream.monitoring.page.server import serve_page
from tristream.monitoring.queries.why.explanation import Explanation
from tristream.monitoring.store.client import Client
from why_runs import SCENARIOS, SOURCES, STEP, Scenario

pytestmark = pytest.mark.browser

Explain = Callable[[str, Sequence[Scenario], int], Explanation]
TEXT = "document.getElementById('why').textContent"


def set_width(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": width < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait_until(browser: Any, expression: str, timeout_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not browser.execute_script(f"return {expression}"):
        assert time.monotonic() < deadline, f"{expression}; {browser.get_log('browser')}"
        time.sleep(0.1)


def test_the_dialog_shows_causes_with_bars_and_rollouts_side_by_side(
    browser: Any, client: Client, explain_run: Explain, settings: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = explain_run("why-threshold-0-95----0-99", SCENARIOS["threshold 0.95 -> 0.99"], 1)
    monkeypatch.setattr(client, "close", lambda: None)
    sources = [settings.sources[0].model_copy(update={"name": name}) for name in SOURCES]
    run = settings.run.model_copy(update={"id": found.run})
    page = serve_page(MonitorSettings.of(settings.model_copy(update={"run": run, "sources": sources})), client)
    try:
        set_width(browser, 1400)
        browser.get(page.url)
        wait_until(browser, "typeof Why !== 'undefined' && Theme.sources.length === 3")
        browser.execute_script(f"Why.open({STEP}, 'find')")
        wait_until(browser, f"{TEXT}.includes('threshold moved')")
        widths = browser.execute_script(
            "return [...document.querySelectorAll('#why .why-cause')].map((cause) => "
            "cause.querySelector('.why-bar').getBoundingClientRect().width)"
        )
        assert widths[0] == max(widths) > 20
        assert browser.execute_script("return document.querySelectorAll('#why .why-pair article').length") >= 4
        assert "tristream rescore" in browser.execute_script(f"return {TEXT}")
        for width in (1400, 420):
            set_width(browser, width)
            fits = "const box = document.getElementById('why'); return box.scrollWidth <= box.clientWidth"
            assert browser.execute_script(fits), f"it is wider than {width} px"
        browser.execute_script(f"Why.open({STEP + 900}, '')")
        wait_until(browser, f"{TEXT}.includes('has reported no step')")
        log = [entry["message"] for entry in browser.get_log("browser")]
        assert all("/api/why" in message and "404" in message for message in log), log
    finally:
        page.stop()
