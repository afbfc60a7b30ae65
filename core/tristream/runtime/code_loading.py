"""Code of users, from a file or a module: what is wrong with it is said in one line."""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType

from tristream.runtime.errors import UserError


def read_code(path: Path, what: str) -> bytes:
    """The content of a file of code.

    Args:
        path: the file.
        what: whose file it is, such as ``verifier``.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"it cannot be read: {error.strerror}", where=str(path), remedy=f"give the path of the {what}'s file"
        ) from None


def import_module(name: str, place: str) -> ModuleType:
    """A module of an installed package; ``place`` is where its code runs, in words.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _broken(name, error, place) from error


def import_code(path: Path, content: bytes, what: str, place: str) -> ModuleType:
    """The module that a file's content makes.

    Args:
        path: the file, for people and tracebacks.
        content: what is in it.
        what: whose file it is, such as ``verifier``.
        place: where its code runs, in words.

    Raises:
        UserError: it cannot be imported.
    """
    module = ModuleType(f"{what}_file_{path.stem}")
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
        raise _broken(str(path), error, place) from error
    return module


def _broken(where: str, error: BaseException, place: str) -> UserError:
    if isinstance(error, SyntaxError):
        return UserError(
            f"it is no Python: {error.msg}", where=f"{error.filename}:{error.lineno}", remedy="mend this line"
        )
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    line = f", line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
    return UserError(
        f"it cannot be imported: {type(error).__name__}: {error}{line}",
        where=where,
        remedy=f"mend it, or install what it imports where {place}",
    )
