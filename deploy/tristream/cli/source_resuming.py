"""``tristream resume``: ask the dispatcher of a run to take up a paused source again."""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from tristream.cli.run_conversation import talk_to
from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Command, CommandKind
from tristream.wire.topics import COMMANDS


def find_run(words: Sequence[str], run_file: Path | None, overrides: Sequence[str]) -> tuple[RunFile, str]:
    """The run and the source that are meant: by a run's folder and a source, or by ``--run`` and a source.

    Raises:
        UserError: a word is missing or too many, the run cannot be read, or it has no such source.
    """
    if len(words) != (1 if run_file else 2):
        raise UserError(
            f"{len(words)} words",
            where="tristream resume",
            remedy="give RUN_FOLDER SOURCE, such as runs/digits digits_sum, or --run RUN.toml SOURCE",
        )
    path = run_file or RunFolder(Path(words[0])).run_file
    settings, source = load_run_file(path, overrides), words[-1]
    names = [section.name for section in settings.sources]
    if source not in names:
        raise UserError(f"no source '{source}'", where=str(path), remedy=f"use one of {', '.join(names)}")
    return settings, source


def resume_source(settings: RunFile, source: str) -> None:
    """Put the request on the log.

    Raises:
        UserError: the run file names no broker.
        TryAgainError: the broker does not answer.
    """
    request = Command(
        run=settings.run.id,
        id=f"resume/{uuid.uuid4().hex}",
        kind=CommandKind.RESUME_SOURCE,
        sources=(source,),
        reason="tristream resume",
        created_ns=time.time_ns(),
    )
    with talk_to(settings) as conversation:
        conversation.bus.publish(COMMANDS, request)
        conversation.bus.flush()
