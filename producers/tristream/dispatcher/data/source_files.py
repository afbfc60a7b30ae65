"""All files of a run's sources: checked, with bad rows refused or left out as each source says."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tristream.config.sources import SourceSection
from tristream.dispatcher.data.row_rules import RowRules
from tristream.dispatcher.data.sample_table import CheckedFile, SampleTable, check_file
from tristream.runtime.errors import UserError

NUM_NAMED_ROWS = 10
SKIP_REMEDY = 'or leave such rows out with on_bad_row = "skip" in [[sources]]'

FileT = TypeVar("FileT")
TrainAndEval = tuple[FileT, FileT | None]


def load_sources(sources: Sequence[SourceSection], rules: RowRules) -> list[TrainAndEval[SampleTable]]:
    """The good rows of each source, to train on and held out.

    Raises:
        UserError: a file is missing or malformed, or has a bad row and its source refuses them, or no good one.
    """
    tables = _read_all(sources, lambda path, source: SampleTable.load(path, source.name, rules))
    files = [(train.file, None if held_out is None else held_out.file) for train, held_out in tables]
    _refuse_bad_rows(sources, files)
    return tables


def check_sources(sources: Sequence[SourceSection], rules: RowRules) -> list[TrainAndEval[CheckedFile]]:
    """The same checks, without keeping the rows.

    Raises:
        UserError: a file is missing or malformed, or has a bad row and its source refuses them, or no good one.
    """
    files = _read_all(sources, lambda path, source: check_file(path, source.name, rules))
    _refuse_bad_rows(sources, files)
    return files


def _read_all(
    sources: Sequence[SourceSection], read: Callable[[Path, SourceSection], FileT]
) -> list[TrainAndEval[FileT]]:
    return [
        (read(source.train, source), None if source.eval is None else read(source.eval, source)) for source in sources
    ]


def _refuse_bad_rows(sources: Sequence[SourceSection], pairs: Sequence[TrainAndEval[CheckedFile]]) -> None:
    files = [(source, file) for source, pair in zip(sources, pairs, strict=True) for file in pair if file is not None]
    refused = [file for source, file in files if source.on_bad_row == "refuse" and file.bad_rows]
    if refused:
        raise bad_rows_error(refused)
    for _, file in files:
        if file.num_good == 0:
            first = file.bad_rows[0]
            raise UserError(
                f"has no row that can be used: row {first.row_number}: {first.reason}",
                where=str(file.path),
                remedy=first.remedy,
            )


def bad_rows_error(files: Sequence[CheckedFile]) -> UserError:
    """What is wrong with the bad rows of files, which are at least one: the first rows by number, and how many more."""
    rows = [(file, row) for file in files for row in file.bad_rows]
    first_file, first = rows[0]
    if len(rows) == 1:
        where = f"{first_file.path} row {first.row_number}"
        return UserError(first.reason, where=where, remedy=f"{first.remedy}, {SKIP_REMEDY}")
    named = [
        f"{file.path.name if len(files) > 1 else ''} row {row.row_number}: {row.reason}".strip()
        for file, row in rows[:NUM_NAMED_ROWS]
    ]
    if len(rows) > NUM_NAMED_ROWS:
        named.append(f"and {len(rows) - NUM_NAMED_ROWS} more")
    return UserError(
        f"{len(rows)} rows cannot be used: {'; '.join(named)}",
        where=str(first_file.path) if len(files) == 1 else "[[sources]]",
        remedy=f"correct them, {SKIP_REMEDY}",
    )
