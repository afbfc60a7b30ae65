"""Take the README's pictures of a real run in headless Chromium: its live page, and its report.

Run it while a run works, and again when it is done:
``python docs/take_pictures.py runs/digits``
"""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from selenium import webdriver

from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Part

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 1440, 1150
SETTLE_SECONDS = 4.0
"""Curves are drawn when they come into view."""


def open_browser() -> Any:  # noqa: ANN401 - selenium has no types of its own
    """Headless Chromium with a window of the pictures' size."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        sys.exit("take_pictures: chromium and chromedriver are not installed; install your system's packages of them")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    metrics = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    return browser


def take(browser: Any, address: str, name: str, scroll_to: str = "") -> None:  # noqa: ANN401
    """Save what an address shows, from a selected element on."""
    browser.get(address)
    time.sleep(SETTLE_SECONDS)
    if scroll_to:
        browser.execute_script(f"document.querySelector({json.dumps(scroll_to)}).scrollIntoView()")
        time.sleep(SETTLE_SECONDS)
    path = HERE / "pictures" / f"{name}.png"
    browser.save_screenshot(str(path))
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def main() -> None:
    """Take the pictures that the state of the run allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of a run, such as runs/digits")
    folder = RunFolder(parser.parse_args().folder)
    browser = open_browser()
    if folder.report.exists():
        take(browser, folder.report.resolve().as_uri(), "report")
    else:
        status = json.loads((folder.status / f"{Part.MONITOR}.json").read_text(encoding="utf-8"))
        take(browser, status["address"], "live-page")
        take(browser, status["address"], "live-rollouts", scroll_to="#gallery")
    browser.quit()


if __name__ == "__main__":
    main()
