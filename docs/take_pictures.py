"""Take the README's pictures of a real run in headless Chromium: its live page, one of its rollouts, and its report.

Run it while a run works, so that it shows one at work, or when it is done; then it serves the page itself:
``python docs/take_pictures.py runs/digits``
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver

from tristream.config.parts import MonitorSettings
from tristream.config.run_file import RunFile
from tristream.monitoring.page.server import serve_page
from tristream.monitoring.store.clickhouse import Role, open_client
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Part, PartState

HERE = Path(__file__).resolve().parent
LONGEST_WAIT_SECONDS = 90.0
SETTLE_SECONDS = 3.0
"""Curves are drawn when they come into view."""
DRAWN = "#source-curves .js-line"
FRESH_SECONDS = 15.0
"""A monitor that has told nothing for longer is not at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture, and how the page comes to look so."""

    name: str
    width: int = 1440
    height: int = 1150
    scheme: str = "light"
    script: str = ""
    """Run when the page is there; what it opens is in the picture."""
    ready: str = DRAWN
    """What has to be there before the picture is taken."""


SHOW_ROLLOUT = """
    const found = Rollouts.searchFor({source: arguments[0], split: 'train', max_reward: '0.95'});
    found.then(() => document.querySelector('#gallery .permalink').click());
"""
SHOW_WHY = "Why.open(Math.max(2, Live.head.step.step >> 1), arguments[0])"
PICTURES = (
    Picture(name="live-page"),
    Picture(name="live-curves", script="document.getElementById('legend').scrollIntoView()"),
    Picture(
        name="live-rollouts",
        script="document.getElementById('rollouts').scrollIntoView()",
        ready="#gallery .picture rect.predicted",
    ),
    Picture(name="live-rollout", script=SHOW_ROLLOUT, height=1000, ready="#rollout .picture rect.predicted"),
    Picture(name="live-why", script=SHOW_WHY, height=1000, ready="#why .why-verdict"),
    Picture(name="live-phone", width=420, height=1150, scheme="dark"),
)


def open_browser() -> Any:  # noqa: ANN401 - selenium has no types of its own
    """Headless Chromium with a window of the pictures' size."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        sys.exit("take_pictures: chromium and chromedriver are not installed; install your system's packages of them")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))


def take(browser: Any, address: str, picture: Picture, folder: Path, *arguments: str) -> None:  # noqa: ANN401
    """Save what an address shows; what the browser reports as an error ends the program."""
    metrics = {"width": picture.width, "height": picture.height, "deviceScaleFactor": 1, "mobile": picture.width < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": picture.scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get("about:blank")
    browser.get(address)
    wait_for(browser, DRAWN)
    if picture.script:
        browser.execute_script(picture.script, *arguments)
        wait_for(browser, picture.ready)
    time.sleep(SETTLE_SECONDS)
    path = folder / f"{picture.name}.png"
    browser.save_screenshot(str(path))
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")
    if problems := browser.get_log("browser"):
        sys.exit(f"take_pictures: the browser reports {problems[0]['message']}")


def wait_for(browser: Any, selector: str) -> None:  # noqa: ANN401
    """Wait until an element is there; after a while the picture is taken without."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while not browser.execute_script("return document.querySelector(arguments[0])", selector):
        if time.monotonic() > deadline:
            print(f"take_pictures: there is no {selector}")
            return
        time.sleep(0.2)


@contextmanager
def page_of(folder: RunFolder, settings: RunFile) -> Iterator[str]:
    """Address of the run's page: that of its monitor, or of one that is served here meanwhile."""
    path = folder.status / f"{Part.MONITOR}.json"
    status = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if status.get("state") == PartState.READY and time.time() - status["time"] < FRESH_SECONDS:
        yield status["address"]
        return
    page = serve_page(MonitorSettings.of(settings), open_client(settings.monitoring, folder, role=Role.ANSWERS))
    try:
        yield page.url
    finally:
        page.stop()


def main() -> None:
    """Take the pictures that the state of the run allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of a run, such as runs/digits")
    parser.add_argument("--source", default="digits_find", help="source whose newest rollout is shown as a whole")
    parser.add_argument("--out", type=Path, default=HERE / "pictures", help="folder of the pictures")
    arguments = parser.parse_args()
    folder = RunFolder(arguments.folder.resolve())
    settings = RunFile.model_validate_json(folder.run_file.read_text(encoding="utf-8"))
    browser = open_browser()
    try:
        with page_of(folder, settings) as address:
            for picture in PICTURES:
                take(browser, address, picture, arguments.out, arguments.source)
            browser.get("about:blank")
            browser.get_log("browser")
        if folder.report.exists():
            take(browser, folder.report.as_uri(), Picture(name="report"), arguments.out)
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
