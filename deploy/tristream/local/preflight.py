"""What must hold before anything is started: data, verifiers, model and folder are as the run file says."""

import errno
import json
from typing import TextIO

from tristream.config.run_file import RunFile
from tristream.config.sources import SourceSection
from tristream.dispatcher.data.sample_table import SampleTable
from tristream.local.trial import require_scorable
from tristream.monitoring.store.clickhouse import open_client
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.run_lock import lock_run
from tristream.verifiers.registry import VERIFIERS, select_verifiers


def check_inputs(settings: RunFile) -> None:
    """Check what the run reads.

    Raises:
        UserError: a file is missing or malformed, a row lacks its reward terms, a verifier does not exist
            or is not served, a source cannot be scored, or ClickHouse does not answer.
    """
    if not (settings.model.path / "config.json").is_file():
        raise UserError(
            f"{settings.model.path} has no config.json",
            where="[model] path",
            remedy="give the folder of a Hugging Face checkpoint",
        )
    for source in settings.sources:
        _check_source(source, settings)
    if settings.monitoring.clickhouse_url:
        open_client(settings.monitoring, settings.run.folder, timeout_seconds=0.0).close()


def _check_source(source: SourceSection, settings: RunFile) -> None:
    for path, parameters in ((source.train, source.params), (source.eval, source.eval_params)):
        if path is None:
            continue
        table = SampleTable.load(path, source.name)
        table.require_known_verifiers(VERIFIERS)
        _require_served(table, settings)
        names = require_scorable(table, parameters)
        if source.metric not in names:
            raise UserError(
                f"its verifiers report no '{source.metric}'",
                where=f"[[sources]] {source.name}, key metric",
                remedy=f"use one of {', '.join(sorted(names))}",
            )


def _require_served(table: SampleTable, settings: RunFile) -> None:
    """On a broker of its own, a run has no verifier but its own worker."""
    served = select_verifiers(settings.verification.verifiers)
    for verifier in table.verifier_rows:
        if verifier not in served and not settings.bus.bootstrap_servers:
            raise UserError(
                f"does not have '{verifier}', which the source {table.source} asks for",
                where="[verification] verifiers",
                remedy="add it, or leave the list empty for all",
            )


def prepare_folder(settings: RunFile) -> TextIO:
    """Make the run's folder, lock it and write the resolved run; returns the lock.

    Raises:
        UserError: the folder belongs to another run or is in use, the run is finished, or the folder cannot be written.
    """
    folder = settings.run.folder
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = lock_run(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    if folder.summary.exists():
        raise UserError(
            "this run is finished", where=str(folder), remedy="--again, --set run.id=NAME, or delete the folder"
        )
    if folder.run_file.exists():
        _require_same_run(folder, settings)
    try:
        for path in (folder.logs, folder.status):
            path.mkdir(parents=True, exist_ok=True)
        for stale in folder.status.iterdir():
            stale.unlink()
        write_run_file(settings)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return lock


def write_run_file(settings: RunFile) -> None:
    """Write the resolved run for its parts."""
    settings.run.folder.run_file.write_text(settings.model_dump_json(indent=2), encoding="utf-8")


def _unwritable(folder: RunFolder, error: OSError) -> UserError:
    remedy = "free space or change run.output" if error.errno == errno.ENOSPC else "change run.output"
    return UserError(f"cannot be written ({error.strerror})", where=str(folder), remedy=remedy)


def _require_same_run(folder: RunFolder, settings: RunFile) -> None:
    """A resumed run keeps what its checkpoints and its prompts depend on."""
    before = json.loads(folder.run_file.read_text(encoding="utf-8"))
    now = json.loads(settings.model_dump_json())
    fixed = ("run.seed", "run.steps", "model.path", "rollout.groups_per_step", "rollout.group_size")
    for key in fixed:
        section, name = key.split(".")
        if before[section][name] != now[section][name]:
            raise UserError(
                f"{key} was {before[section][name]} and is {now[section][name]} now",
                where=str(folder),
                remedy="resume with the same value, or give another --set run.id=NAME",
            )
