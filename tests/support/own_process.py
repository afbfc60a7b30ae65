"""Tests that need a process of their own.

Of the embedded ClickHouse a process has one, with one folder; and what threads of tests before allocate is counted too.
"""

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

VARIABLE = "TRISTREAM_OWN_PROCESS"


def in_own_process(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a pytest of its own."""
    place = f"{inspect.getsourcefile(test)}::{test.__name__}"

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        if os.environ.get(VARIABLE) == place:
            test(**fixtures)
            return
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", place]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env={**environment, VARIABLE: place}
        )
        assert done.returncode == 0, done.stdout[-5000:]
        assert "1 passed" in done.stdout

    return run
