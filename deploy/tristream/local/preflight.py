"""What must hold before anything is started: data, verifiers, model and folder are as the run file says."""

import errno
import json
from collections.abc import Collection, Mapping
from typing import Any, TextIO

from tristream.config.run_file import RunFile
from tristream.config.sources import SourceSection
from tristream.dispatcher.data.row_rules import RowRules
from tristream.dispatcher.data.sample_table import CheckedFile
from tristream.dispatcher.data.source_files import check_sources
from tristream.local.producer_python import require_producer_python
from tristream.local.resolved_run import write_run_file
from tristream.local.trial import Definitions, load_definitions, require_scorable
from tristream.monitoring.store.clickhouse import open_client
from tristream.producer.environments.loading import load_environment
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.run_lock import lock_run
from tristream.wire.verifiers import ALIASES


def check_inputs(settings: RunFile) -> None:
    """Check what the run reads; rows that a source leaves out are no error, and the dispatcher names them.

    Raises:
        UserError: a file is missing or malformed, a row cannot be used, an environment cannot be loaded, the producer's
            Python lacks vLLM, a verifier is not served, a source cannot be scored, or ClickHouse does not answer.
    """
    if not (settings.model.path / "config.json").is_file():
        raise UserError(
            f"{settings.model.path} has no config.json",
            where="[model] path",
            remedy="give the folder of a Hugging Face checkpoint",
        )
    require_producer_python(settings.rollout.engine)
    for source in settings.sources:
        if source.environment:
            load_environment(source.environment)
    definitions = load_definitions(settings.verification)
    _require_known(settings.verification.verifiers, definitions)
    rules = RowRules.of(settings.rollout, settings.store, settings.verification)
    for source, (train, held_out) in zip(settings.sources, check_sources(settings.sources, rules), strict=True):
        _check_verifiers(source, train, source.params, settings, definitions)
        if held_out is not None:
            _check_verifiers(source, held_out, source.eval_params, settings, definitions)
    if settings.monitoring.clickhouse_url:
        open_client(settings.monitoring, settings.run.folder, timeout_seconds=0.0).close()


def _require_known(names: Collection[str], definitions: Definitions) -> None:
    for name in names:
        if name not in definitions:
            raise UserError(
                f"unknown verifier '{name}'",
                where="[verification] verifiers",
                remedy=f"use one of: {', '.join(sorted([*definitions, *ALIASES]))}",
            )


def _check_verifiers(
    source: SourceSection,
    file: CheckedFile,
    parameters: Mapping[str, Any],
    settings: RunFile,
    definitions: Definitions,
) -> None:
    _require_served(file, settings)
    names = require_scorable(file, parameters, definitions)
    if source.metric not in names:
        raise UserError(
            f"its verifiers report no '{source.metric}'",
            where=f"[[sources]] {source.name}, key metric",
            remedy=f"use one of {', '.join(sorted(names))}",
        )


def _require_served(file: CheckedFile, settings: RunFile) -> None:
    """On a broker of its own, a run has no verifier but its own worker."""
    served = settings.verification.verifiers
    for verifier in file.verifier_rows:
        if served and verifier not in served and not settings.bus.bootstrap_servers:
            raise UserError(
                f"does not have '{verifier}', which the source {file.source} asks for",
                where="[verification] verifiers",
                remedy="add it, or leave the list empty for all",
            )


def prepare_folder(settings: RunFile) -> TextIO:
    """Make the run's folder, lock it and write the resolved run; returns the lock.

    A run that has more steps than before goes on, finished or not.

    Raises:
        UserError: the folder belongs to another run or is in use, the run is finished, or the folder cannot be written.
    """
    folder = settings.run.folder
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = lock_run(folder)
    except OSError as error:
        raise _unwritable(folder, error) from None
    is_longer = folder.run_file.exists() and _require_same_run(folder, settings)
    if folder.summary.exists() and not is_longer:
        raise UserError(
            "this run is finished",
            where=str(folder),
            remedy="--steps with more steps, --again, --set run.id=NAME, or delete the folder",
        )
    try:
        folder.summary.unlink(missing_ok=True)
        for path in (folder.logs, folder.status):
            path.mkdir(parents=True, exist_ok=True)
        for stale in folder.status.iterdir():
            stale.unlink()
        write_run_file(settings)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return lock


def _unwritable(folder: RunFolder, error: OSError) -> UserError:
    remedy = "free space or change run.output" if error.errno == errno.ENOSPC else "change run.output"
    return UserError(f"cannot be written ({error.strerror})", where=str(folder), remedy=remedy)


def _require_same_run(folder: RunFolder, settings: RunFile) -> bool:
    """A resumed run keeps what its checkpoints and its prompts depend on; returns whether it has more steps now."""
    before = json.loads(folder.run_file.read_text(encoding="utf-8"))
    now = json.loads(settings.model_dump_json())
    for key in ("run.seed", "model.path", "rollout.groups_per_step", "rollout.group_size"):
        section, name = key.split(".")
        if before[section][name] != now[section][name]:
            raise UserError(
                f"{key} was {before[section][name]} and is {now[section][name]} now",
                where=str(folder),
                remedy="resume with the same value, or give another --set run.id=NAME",
            )
    num_steps = before["run"]["steps"]
    if settings.run.steps < num_steps:
        raise UserError(
            f"run.steps was {num_steps} and is {settings.run.steps} now",
            where=str(folder),
            remedy=f"resume with {num_steps} steps or more, or give another --set run.id=NAME",
        )
    return bool(settings.run.steps > num_steps)
