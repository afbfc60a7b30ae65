"""From the name of an entry point to an environment; needs neither torch nor transformers."""

import inspect
from pathlib import Path
from types import ModuleType

from tristream.producer.environments.contract import Client, Environment, RolloutExhaustedError, Sample
from tristream.runtime.code_loading import import_code, import_module, read_code
from tristream.runtime.errors import UserError

SIGNATURE = "async def NAME(client, sample)"
WHAT, WHERE_IT_RUNS = "environment", "the producer runs"


def load_environment(entry: str) -> Environment:
    """The environment of an entry point; imports its code and calls nothing of it.

    It ends without an error where the policy has used up what a rollout may use.

    Args:
        entry: ``FILE.py:NAME`` or ``MODULE:NAME``.

    Raises:
        UserError: there is no such function, its code cannot be imported, or it is no environment.
    """
    place, _, name = entry.rpartition(":")
    if not place or not name:
        raise UserError("no entry point of an environment", where=entry, remedy="write FILE.py:NAME or MODULE:NAME")
    module = _import(place)
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


def _import(place: str) -> ModuleType:
    if not place.endswith(".py"):
        return import_module(place, WHERE_IT_RUNS)
    return import_code(Path(place), read_code(Path(place), WHAT), WHAT, WHERE_IT_RUNS)


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
