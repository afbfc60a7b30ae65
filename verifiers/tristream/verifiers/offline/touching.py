"""What a verifier touches beside its arguments: files, the network, processes; watched in a process of its own."""

import asyncio
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tristream.verifiers.definition import Scope, VerifierDefinition
from tristream.verifiers.offline.describing import load
from tristream.verifiers.offline.plain_lines import read_rollout
from tristream.verifiers.pool.truths import Truths

TIMEOUT_SECONDS = 30.0
MOST_NAMED = 5
CODE_SUFFIXES = (".py", ".pyc", ".so", ".pth")
EVENTS: Mapping[str, str] = {
    "open": "file",
    "os.remove": "file",
    "os.rename": "file",
    "os.mkdir": "file",
    "socket.connect": "network",
    "socket.getaddrinfo": "network",
    "socket.sendto": "network",
    "subprocess.Popen": "processes",
    "os.system": "processes",
    "os.fork": "processes",
    "os.posix_spawn": "processes",
    "os.exec": "processes",
}
"""Audit events of Python, and what they touch."""


def what_it_touches(entry_point: str, lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(``file``, ``network`` or ``processes``; what it was) while a verifier judges lines, each once.

    What it raises is of no interest here; a verifier that hangs is stopped.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tristream.verifiers.offline.touching", entry_point],
            check=False,
            input=json.dumps(lines).encode(),
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except subprocess.TimeoutExpired:
        return []
    touched = [json.loads(line) for line in done.stderr.splitlines() if line.startswith(b'["')]
    return list(dict.fromkeys((kind, what) for kind, what in touched))[:MOST_NAMED]


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    kind = EVENTS.get(event)
    if kind is None:
        return
    what = str(arguments[0])[:200] if arguments else ""
    if event == "open" and (isinstance(arguments[0], int) or _is_code(what)):
        return
    os.write(2, json.dumps([kind, f"{event} {what}"]).encode() + b"\n")


def _is_code(path: str) -> bool:
    packages = (sys.prefix, sys.base_prefix, *(folder for folder in sys.path if folder.endswith("-packages")))
    return path.endswith(CODE_SUFFIXES) or path.startswith((*packages, "/proc/", "/dev/", "/usr/share/zoneinfo"))


def _judge(definition: VerifierDefinition, truths: Truths, line: Mapping[str, Any]) -> None:
    params_json = json.dumps(line.get("params", {}))
    keywords = truths.keywords(params_json)
    truth = truths.truth(line["ground_truth"], params_json, keywords)
    rollout = replace(read_rollout(line), truth=truth)
    said = definition.function((rollout,) if definition.scope is Scope.GROUP else rollout, **keywords)
    if inspect.isawaitable(said):
        asyncio.run(asyncio.wait_for(_wait(said), TIMEOUT_SECONDS))


async def _wait(said: Any) -> object:  # noqa: ANN401 - whatever a verifier returns
    return await said


def main() -> None:
    """Judge the lines on standard input, and tell what is touched, a JSON list a line on standard error."""
    definition = load(sys.argv[1])
    lines, truths = json.load(sys.stdin), Truths(definition)
    os.chdir(Path(os.sep))
    sys.addaudithook(_watch)
    for line in lines:
        try:
            _judge(definition, truths, line)
        except Exception:
            continue  # that it fails is found out elsewhere


if __name__ == "__main__":
    main()
