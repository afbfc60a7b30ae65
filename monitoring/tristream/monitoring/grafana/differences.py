"""What would change: the wanted values that Grafana does not have. What Grafana adds of its own is left alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MAX_TEXT = 60


def find_differences(wanted: Any, found: Any, path: str = "") -> Iterator[str]:  # noqa: ANN401 - JSON
    """One line for each value that differs, such as ``panels[3].title: 'a' -> 'b'``.

    Keys that only Grafana has are its own, such as numbers and times of change; a list must be the same throughout.
    """
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            place = f"{path}.{key}" if path else str(key)
            if key in found:
                yield from find_differences(value, found[key], place)
            elif not _is_left_out(value):
                yield f"{place}: none -> {_short(value)}"
    elif _is_list(wanted) and _is_list(found) and len(wanted) == len(found):
        for number, (value, other) in enumerate(zip(wanted, found, strict=True)):
            yield from find_differences(value, other, f"{path}[{number}]")
    elif wanted != found:
        yield f"{path}: {_short(found)} -> {_short(wanted)}"


def _is_left_out(value: object) -> bool:
    """Whether Grafana may leave a value out of what it answers, since it is the one of Go's type."""
    return value in (None, "", False, 0) or (isinstance(value, dict | list) and not value)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: object) -> str:
    if _is_list(value) and isinstance(value, Sequence):
        return f"{len(value)} entries"
    text = repr(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
