"""Rows of a source: V-Triune's Parquet schema, checked whole at start.

A source is checked once from its first row to its last, so that a run does not die of row 40,000
after a day. The columns that are used are copied to an unlinked Arrow file that is mapped into
memory: a row is then read in microseconds, and the images of a large source do not stay in memory.
Rows are counted from 0 in errors.
"""

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tristream.dispatcher.data.samples import Sample
from tristream.dispatcher.data.vtriune_rows import RowError, parse_row
from tristream.runtime.errors import UserError

REQUIRED_COLUMNS = ("prompt", "reward_model")
OPTIONAL_COLUMNS = ("images", "extra_info")
SCHEMA_REMEDY = "give a Parquet file with V-Triune's columns: prompt, images, reward_model, extra_info"
BATCH_ROWS = 256


class SampleTable:
    """The checked rows of one Parquet file, read by row number.

    Example:
        >>> table = SampleTable.load(Path("data/train_digits_sum.parquet"), "digits_sum")  # doctest: +SKIP
        >>> table[0].terms[0].verifier  # doctest: +SKIP
        'math'
    """

    def __init__(self, path: Path, source: str, table: pa.Table, verifier_rows: dict[str, int]) -> None:
        self.path = path
        self.source = source
        self._table = table
        self.verifier_rows = verifier_rows
        """The first row that asks for each verifier."""

    @classmethod
    def load(cls, path: Path, source: str) -> "SampleTable":
        """Read and check a file.

        Raises:
            UserError: the file is missing or malformed, or a row is; names the file and the row.
        """
        file = _open_parquet(path)
        columns = _columns(file, path)
        if file.metadata.num_rows == 0:
            raise UserError("has no rows", where=str(path), remedy="give at least one row")
        verifier_rows: dict[str, int] = {}
        with tempfile.NamedTemporaryFile(prefix="tristream-rows-", suffix=".arrow") as copy:
            _copy_checked(file, columns, copy.name, _RowChecker(path, source, verifier_rows))
            table = pa.ipc.open_file(pa.memory_map(copy.name)).read_all()
        return cls(path, source, table, verifier_rows)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, row_number: int) -> Sample:
        return parse_row(self._table.slice(row_number, 1).to_pylist()[0], self.source, row_number)

    def __iter__(self) -> Iterator[Sample]:
        return (self[row_number] for row_number in range(len(self)))

    def require_known_verifiers(self, known: Collection[str]) -> None:
        """Check that each verifier that a row asks for exists.

        Raises:
            UserError: one does not; names the first row that asks for it.
        """
        for verifier, row_number in self.verifier_rows.items():
            if verifier not in known:
                raise UserError(
                    f"asks for the verifier '{verifier}', which does not exist",
                    where=f"{self.path} row {row_number}",
                    remedy=f"use one of {', '.join(sorted(known))}",
                )


@dataclass(frozen=True, slots=True)
class _RowChecker:
    path: Path
    source: str
    verifier_rows: dict[str, int]

    def check(self, row: dict[str, Any], row_number: int) -> None:
        try:
            sample = parse_row(row, self.source, row_number)
        except RowError as error:
            raise UserError(error.what, where=f"{self.path} row {row_number}", remedy=error.remedy) from None
        for term in sample.terms:
            self.verifier_rows.setdefault(term.verifier, row_number)


def _open_parquet(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise UserError("no such file", where=str(path), remedy="correct the path in [[sources]]")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"is not a Parquet file ({reason})", where=str(path), remedy=SCHEMA_REMEDY) from None


def _columns(file: pq.ParquetFile, path: Path) -> list[str]:
    names = set(file.schema_arrow.names)
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        raise UserError(f"has no column '{missing[0]}'", where=str(path), remedy=SCHEMA_REMEDY)
    return [name for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if name in names]


def _copy_checked(file: pq.ParquetFile, columns: list[str], target: str, checker: _RowChecker) -> None:
    schema = pa.schema([file.schema_arrow.field(name) for name in columns])
    row_number = 0
    try:
        with pa.OSFile(target, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    checker.check(row, row_number)
                    row_number += 1
                writer.write_batch(batch.select(columns))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot be read after row {row_number} ({reason})", where=str(checker.path), remedy="write the file again"
        ) from None
