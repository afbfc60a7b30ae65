"""Where tables go: as wide as the terminal, and wide enough where there is none."""

import sys

from rich.console import Console

PLAIN_WIDTH = 140
"""Characters of a line where no terminal says how many."""


def open_console(*, stderr: bool = False) -> Console:
    """A console that prints what it is given as it is."""
    is_seen = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr, width=None if is_seen else PLAIN_WIDTH, highlight=False, markup=False, soft_wrap=False
    )
