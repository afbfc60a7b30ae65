"""``tristream report``: the HTML report of a run wherever its database is."""

import json
from pathlib import Path
from typing import Any

from tristream.config.run_file import RunFile
from tristream.monitoring.queries.overview import read_groups
from tristream.monitoring.queries.summary import read_summary
from tristream.monitoring.report import write_report
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.reading import open_reader
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder


def write_run_report(settings: RunFile, folder: RunFolder, out: Path | None = None) -> Path:
    """Write the report of a run; returns the file.

    Args:
        settings: the run.
        folder: its folder, which need not be there if the database is a server.
        out: the file to write; the report in the folder if not given.

    Raises:
        UserError: there is no database, or the file cannot be written.
        TryAgainError: the run's monitor does not answer.
    """
    path = out or folder.report
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", where=str(path), remedy="name a file with --out")
    with open_reader(settings.monitoring, folder) as client:
        summary = _read_written_summary(folder) or _summarize(client, settings.run.id)
        try:
            write_report(client, settings, summary, path)
        except OSError as error:
            raise UserError(
                f"cannot be written ({error.strerror})", where=str(path), remedy="name another file with --out"
            ) from None
    return path


def _read_written_summary(folder: RunFolder) -> dict[str, Any] | None:
    """The summary that the run wrote when it was done; None while it is not."""
    try:
        summary: dict[str, Any] = json.loads(folder.summary.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary


def _summarize(client: Client, run: str) -> dict[str, Any]:
    """What the summary would say now, without what only an audit of the log tells."""
    facts = read_summary(client, run)
    return {
        "run": run,
        "steps": facts["steps"],
        "sources": facts["sources"],
        "groups": read_groups(client, run),
        "verifier_changes": facts["verifier_changes"],
        **facts["lost"],
        "seconds": {f"learner_{name}": seconds for name, seconds in facts["phases"].items()},
    }
