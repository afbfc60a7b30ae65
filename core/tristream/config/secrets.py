"""Secrets in a run file: the passwords in its addresses are not written down, and reach parts by their environment."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from tristream.config.load import ENVIRONMENT_PREFIX
from tristream.config.run_file import RunFile

_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):[^/\s]*@")
"""``user:password@`` of an address."""


def without_password(text: str) -> str:
    """A text in which no address has a password.

    Example:
        >>> without_password("http://reader:secret@host:8123/runs")
        'http://reader@host:8123/runs'
    """
    return _PASSWORD.sub(r"\1@", text)


def without_secrets(run_file: RunFile) -> RunFile:
    """The same run without passwords."""
    return RunFile.model_validate(_map_texts(run_file.model_dump(mode="json"), without_password))


def secret_environment(run_file: RunFile) -> dict[str, str]:
    """The environment variables that give ``without_secrets`` its passwords back."""
    return {
        f"{ENVIRONMENT_PREFIX}{'__'.join(keys).upper()}": text
        for keys, text in _texts(run_file.model_dump(mode="json"), ())
        if _PASSWORD.search(text)
    }


def _texts(node: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:  # noqa: ANN401 - a JSON value
    """Every text in a tree, with the keys that lead to it."""
    if isinstance(node, str):
        yield keys, node
    elif isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _texts(child, (*keys, str(key)))


def _map_texts(node: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 - a JSON value
    if isinstance(node, str):
        return change(node)
    if isinstance(node, dict):
        return {key: _map_texts(child, change) for key, child in node.items()}
    return [_map_texts(child, change) for child in node] if isinstance(node, list) else node
