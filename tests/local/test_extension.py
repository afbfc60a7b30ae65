"""A run may get more steps; it never gets fewer than it has trained."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tristream.config.run_file import RunFile
from tristream.local.extension import extend_command, require_enough_steps, steps_before
from tristream.local.preflight import prepare_folder
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder, ledger_file
from tristream.wire.events import CommandKind

MakeSettings = Callable[..., RunFile]


def write_checkpoint(folder: RunFolder, step: int) -> None:
    ledger_file(folder.checkpoint(step)).parent.mkdir(parents=True)
    ledger_file(folder.checkpoint(step)).write_text("{}")


def test_a_run_that_is_longer_than_before_tells_the_log_so(make_settings: MakeSettings) -> None:
    settings = make_settings()
    assert steps_before(settings.run.folder) == 0
    assert extend_command(settings, 0) == ()
    prepare_folder(settings).close()
    assert steps_before(settings.run.folder) == settings.run.steps
    assert extend_command(settings, settings.run.steps) == ()
    longer = make_settings(run={"steps": settings.run.steps + 3})
    (command,) = extend_command(longer, steps_before(settings.run.folder))
    assert (command.kind, command.total_steps) == (CommandKind.EXTEND, settings.run.steps + 3)
    assert (command.run, command.id) == (settings.run.id, f"extend/{settings.run.steps + 3}")


def test_fewer_steps_than_are_trained_are_refused_in_words(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    require_enough_steps(folder, 1)
    for step in (4, 1_000_000, 999_999):
        write_checkpoint(folder, step)
    require_enough_steps(folder, 1_000_000)
    with pytest.raises(UserError, match=r"it has trained 1000000 steps already, and 10 are asked for; ask for more"):
        require_enough_steps(folder, 10)
