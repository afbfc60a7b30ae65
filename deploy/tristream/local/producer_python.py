"""Which Python the producer runs in: vLLM lives in an environment of its own."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tristream.config.engines import EngineSection, VllmEngineSection
from tristream.runtime.errors import UserError

LOOK_TIMEOUT_SECONDS = 60.0
LOOK = """
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
try:
    print(version("tristream"))
except PackageNotFoundError:
    print("none")
print(find_spec("vllm") is not None)
"""
"""Prints the version of tristream and whether there is vLLM, neither of which it imports."""


def producer_python(engine: EngineSection) -> Path:
    """The Python that the producer is started with."""
    given = engine.python if isinstance(engine, VllmEngineSection) else None
    return given or Path(sys.executable)


def require_producer_python(engine: EngineSection) -> None:
    """Check that the producer's Python has tristream, the same as here, and vLLM where the engine is vLLM.

    Raises:
        UserError: it has not.
    """
    if not isinstance(engine, VllmEngineSection):
        return
    python = producer_python(engine)
    installed, has_vllm = _look_into(python)
    own = version("tristream")
    if not has_vllm:
        raise _unusable(python, "has no vLLM")
    if installed != own:
        raise _unusable(python, "has no tristream" if installed == "none" else f"has tristream {installed}, not {own}")


def _look_into(python: Path) -> tuple[str, bool]:
    try:
        answer = subprocess.run(
            [str(python), "-c", LOOK], capture_output=True, text=True, check=True, timeout=LOOK_TIMEOUT_SECONDS
        )
        installed, has_vllm = answer.stdout.split()
    except (OSError, ValueError, subprocess.SubprocessError):
        raise _unusable(python, "is no Python that runs") from None
    return installed, has_vllm == "True"


def _unusable(python: Path, what: str) -> UserError:
    return UserError(
        f"{python} {what}",
        where="[rollout.engine] python",
        remedy="make vllm-env, and give the path of .venv-vllm/bin/python",
    )
