"""The lines of a file of JSON objects, one after the other, however large the file is."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from tristream.verifiers.offline.questions import LineError

MAX_LINE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line that is not blank."""

    number: int
    """From 1, blank ones counted."""
    data: bytes
    size_bytes: int
    """Of it and the blank lines before it, for progress."""


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """The lines; of one that is too long only so much that it can be refused."""
    size_bytes = 0
    for number, (data, length) in enumerate(_raw_lines(file), start=1):
        size_bytes += length
        if data.strip():
            yield Line(number=number, data=data, size_bytes=size_bytes)
            size_bytes = 0


def parse_object(data: bytes) -> dict[str, Any]:
    """The object in a line.

    Raises:
        LineError: there is none.
    """
    if len(data) > MAX_LINE_BYTES:
        raise LineError(f"it is longer than {MAX_LINE_BYTES >> 20} MiB")
    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise LineError(f"it is not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise LineError("it is not a JSON object")
    return value


def _raw_lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line, cut if it is too long, and its length."""
    while data := file.readline(MAX_LINE_BYTES + 1):
        length = len(data)
        while not data.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
            length += len(rest)
            if rest.endswith(b"\n"):
                break
        yield data, length


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_constant(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
