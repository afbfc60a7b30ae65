"""``tristream score``: from a file of lines to a file of answers, with progress and a table at the end."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import Progress

from tristream.runtime.errors import UserError
from tristream.verifiers.offline.lines_of_file import read_lines
from tristream.verifiers.offline.pools import running_pool
from tristream.verifiers.offline.questions import LineFormat
from tristream.verifiers.offline.scoring import score_lines
from tristream.verifiers.offline.served import Served
from tristream.verifiers.offline.tally import Tally

STANDARD = "-"
"""Stands for standard input or output."""


def score_file(
    source: str, target: str, line_format: LineFormat, served: Served, *, num_workers: int, console: Console
) -> Tally:
    """Answer each line of a file in another one.

    Args:
        source: path of a file of JSON lines, or ``-``.
        target: path of the file to write, or ``-``; one that is there is replaced.
        line_format: how the lines ask.
        served: verifiers at hand.
        num_workers: processes that judge.
        console: where progress and the table go.

    Returns:
        What became of the lines.

    Raises:
        UserError: a file cannot be read or written, or a verifier cannot be loaded.
        TryAgainError: the processes do not work.
    """
    if STANDARD not in (source, target) and Path(source).resolve() == Path(target).resolve():
        raise UserError("it is read and written", where=target, remedy="give another file as --out")
    tally = Tally()
    with _opened(source, "rb") as lines, running_pool(served, num_workers) as pool, _opened(target, "wb") as answers:
        with _progress(lines, console) as advance:
            for line, answer in score_lines(read_lines(lines), line_format, pool):
                tally.count(answer)
                answers.write(to_json_line(answer.fields))
                advance(line.size_bytes)
        answers.flush()
    console.print(tally.table())
    return tally


def to_json_line(fields: Any) -> bytes:  # noqa: ANN401 - JSON
    """A line of ASCII, whatever is in it."""
    return json.dumps(fields, separators=(", ", ": ")).encode() + b"\n"


@contextmanager
def _opened(name: str, mode: str) -> Iterator[Any]:
    if name == STANDARD:
        yield sys.stdin.buffer if mode == "rb" else sys.stdout.buffer
        return
    try:
        file = Path(name).open(mode)  # noqa: SIM115 - closed below
    except OSError as error:
        what = "cannot be read" if mode == "rb" else "cannot be written"
        raise UserError(f"{what} ({error.strerror})", where=name, remedy="give the path of a file, or -") from None
    with file:
        yield file


@contextmanager
def _progress(lines: BinaryIO, console: Console) -> Iterator[Any]:
    """Says how many bytes of the file are answered, where somebody sees it."""
    size = os.fstat(lines.fileno()).st_size if lines is not sys.stdin.buffer else 0
    is_shown = console.is_terminal and not console.is_dumb_terminal
    with Progress(console=console, transient=True) if is_shown else nullcontext() as progress:
        if progress is None:
            yield lambda _num_bytes: None
        else:
            task = progress.add_task("scoring", total=size or None)
            yield lambda num_bytes: progress.advance(task, num_bytes)
