"""From the name of an entry point to an environment; needs neither torch nor transformers."""

import importlib
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType

from tristream.producer.environments.contract import Client, Environment, RolloutExhaustedError, Sample
from tristream.runtime.errors import UserError

SIGNATURE = "async def NAME(client, sample)"


def load_environment(entry: str, relative_to: Path) -> Environment:
    """The environment of an entry point; imports its code and calls nothing of it.

    It ends without an error where the policy has used up what a rollout may use.

    Args:
        entry: ``FILE.py:NAME`` or ``MODULE:NAME``.
        relative_to: folder that a relative file is in.

    Raises:
        UserError: there is no such function, its code cannot be imported, or it is no environment.
    """
    place, _, name = entry.rpartition(":")
    if not place or not name:
        raise UserError("no entry point of an environment", where=entry, remedy="write FILE.py:NAME or MODULE:NAME")
    module = _import_file(relative_to / place) if place.endswith(".py") else _import_module(place)
    if not hasattr(module, name):
        raise UserError(f"there is no '{name}'", where=entry, remedy=_remedy_for_name(module))
    found = getattr(module, name)
    _require_environment(found, entry)

    async def environment(client: Client, sample: Sample) -> None:
        try:
            await found(client, sample)
        except RolloutExhaustedError:
            return

    return environment


def _require_environment(found: object, entry: str) -> None:
    if not callable(found):
        raise UserError(f"it is a {type(found).__name__}, no function", where=entry, remedy=f"write {SIGNATURE}")
    called = found if inspect.isroutine(found) else found.__call__
    if inspect.isasyncgenfunction(called):
        raise UserError("it yields", where=entry, remedy="await client.answer(), and return nothing")
    if inspect.isclass(found) or not inspect.iscoroutinefunction(called):
        raise UserError("it is not async", where=entry, remedy=f"write {SIGNATURE}")
    try:
        inspect.signature(found).bind("client", "sample")
    except TypeError:
        raise UserError(
            f"it cannot be called with a client and a sample, as it takes {inspect.signature(found)}",
            where=entry,
            remedy=f"write {SIGNATURE}",
        ) from None


def _remedy_for_name(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if inspect.iscoroutinefunction(value) and value.__module__ == module.__name__
    ]
    return f"use one of {', '.join(sorted(names))}" if names else f"write {SIGNATURE} there"


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _import_file(path: Path) -> ModuleType:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"it cannot be read: {error.strerror}", where=str(path), remedy="give the path of the environment's file"
        ) from None
    module = ModuleType(f"environment_file_{path.stem}")
    module.__file__ = str(path)
    previous = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses and annotations look their module up
    try:
        exec(compile(content, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        if previous is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = previous
        raise _broken(str(path), error) from error
    return module


def _broken(where: str, error: BaseException) -> UserError:
    if isinstance(error, SyntaxError):
        return UserError(
            f"it is no Python: {error.msg}", where=f"{error.filename}:{error.lineno}", remedy="mend this line"
        )
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    line = f", line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
    return UserError(
        f"it cannot be imported: {type(error).__name__}: {error}{line}",
        where=where,
        remedy="mend it, or install what it imports where the producer runs",
    )
