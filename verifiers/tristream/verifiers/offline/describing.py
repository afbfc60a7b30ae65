"""What a verifier declares of itself, told by a process of its own: code of others never runs in this one."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tristream.runtime.errors import UserError
from tristream.verifiers.definition import VerifierDefinition
from tristream.verifiers.loading import load_definition
from tristream.wire.verifiers import versioned_name

TIMEOUT_SECONDS = 60.0
"""How long loading a verifier may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A verifier as it describes itself."""

    name: str
    version: str
    entry_point: str
    """Where its code is, wherever one stands; the name of a built-in or an installed verifier."""
    scope: str = "rollout"
    is_async: bool = False
    components: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """JSON schema of each parameter by its name."""
    cpu_seconds: float = 0.0
    """CPU time that one call may use up."""

    @property
    def versioned_name(self) -> str:
        """``NAME@VERSION``."""
        return versioned_name(self.name, self.version)


def absolute_entry_point(entry_point: str) -> str:
    """The same with the path of a file made absolute.

    Example:
        >>> absolute_entry_point("brief:brief")
        'brief:brief'
    """
    path, separator, name = entry_point.rpartition(":")
    return f"{Path(path).resolve()}{separator}{name}" if path.endswith(".py") else entry_point


def describe(entry_point: str) -> Description:
    """Ask a verifier what it is.

    Args:
        entry_point: ``module:name``, ``file.py:name``, or the name of an installed or built-in verifier, with its
            version or without.

    Raises:
        UserError: it cannot be loaded.
    """
    absolute = absolute_entry_point(entry_point)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tristream.verifiers.offline.describing", absolute],
            check=False,
            capture_output=True,
            timeout=TIMEOUT_SECONDS,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"it is not loaded after {TIMEOUT_SECONDS:.0f} s", where=entry_point, remedy="do less at its import"
        ) from None
    told = _last_object(done.stdout)
    if "what" in told:
        raise UserError(told["what"], where=told["where"], remedy=told["remedy"])
    if "name" not in told:
        last_words = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise UserError(f"it cannot be loaded: {last_words[0][:300]}", where=entry_point, remedy="correct its module")
    told["components"] = {name: (low, high) for name, (low, high) in told["components"].items()}
    told["needs"] = tuple(told["needs"])
    return Description(**told, entry_point=absolute)


def _last_object(output: bytes) -> dict[str, Any]:
    """The last line, which is the description; a plug-in may print before it."""
    lines = output.splitlines() or [b"{}"]
    try:
        told = json.loads(lines[-1])
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def load(entry_point: str) -> VerifierDefinition:
    """The verifier of an entry point, of a name or of ``NAME@VERSION``; imports its code.

    Raises:
        UserError: it cannot be loaded, or is of another version.
    """
    is_versioned = "@" in entry_point and ":" not in entry_point
    return load_definition("", entry_point) if is_versioned else load_definition(entry_point)


def tell(entry_point: str) -> dict[str, Any]:
    """What a verifier declares, as JSON; imports its code.

    Raises:
        UserError: it cannot be loaded.
    """
    definition = load(entry_point)
    try:
        parameters = definition.parameters.model_json_schema().get("properties", {})
    except Exception:  # a kind of parameter that has no schema is checked all the same
        parameters = {name: {} for name in definition.parameters.model_fields}
    return {
        "name": definition.name,
        "version": definition.version,
        "scope": str(definition.scope),
        "is_async": definition.is_async,
        "components": {name: list(limits) for name, limits in definition.components.items()},
        "needs": sorted(str(need) for need in definition.needs),
        "parameters": json.loads(json.dumps(parameters, default=repr)),
        "cpu_seconds": definition.limits.cpu_seconds,
    }


def main() -> None:
    """Describe the verifier that the command line names."""
    try:
        told = tell(sys.argv[1])
    except UserError as error:
        told = {"what": error.what, "where": error.where, "remedy": error.remedy}
    sys.stdout.write(f"\n{json.dumps(told)}\n")


if __name__ == "__main__":
    main()
