"""Rows of a source: V-Triune's Parquet schema, checked whole at start.

A source is checked once from its first row to its last, so that a run does not die of row 40,000
after a day. The columns that are used are copied to an unlinked Arrow file that is mapped into
memory: a row is then read in microseconds, and the images of a large source do not stay in memory.
Rows are counted from 0, as they are in the file.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tristream.dispatcher.data.row_rules import RowRules
from tristream.dispatcher.data.samples import Sample
from tristream.dispatcher.data.vtriune_rows import RowError, parse_row
from tristream.runtime.errors import UserError

REQUIRED_COLUMNS = ("prompt", "reward_model")
OPTIONAL_COLUMNS = ("images", "extra_info")
ROW_NUMBER_COLUMN = "tristream_row_number"
SCHEMA_REMEDY = "give a Parquet file with V-Triune's columns: prompt, images, reward_model, extra_info"
BATCH_ROWS = 64
"""Rows in memory at a time; each may have images of megabytes."""
NUM_FIRST_SAMPLES = 8

KeepRows = Callable[[pa.RecordBatch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be used."""

    row_number: int
    reason: str
    remedy: str


@dataclass(slots=True, kw_only=True)
class CheckedFile:
    """What is known of a file of rows once it is checked."""

    path: Path
    source: str
    sha256: str = ""
    num_good: int = 0
    bad_rows: list[BadRow] = field(default_factory=list)
    verifier_rows: dict[str, int] = field(default_factory=dict)
    """The first good row that asks for each verifier."""
    weighted_verifiers: set[frozenset[str]] = field(default_factory=set)
    """Which verifiers count for good rows, each combination once."""
    first_samples: list[Sample] = field(default_factory=list)
    """The first few good ones."""


class SampleTable:
    """The good rows of one Parquet file, read by their place among the good ones.

    Example:
        >>> rules = RowRules(max_image_pixels=10**6, max_image_bytes=10**6, inline_image_bytes=65536)
        >>> table = SampleTable.load(Path("data/train_digits_sum.parquet"), "digits_sum", rules)  # doctest: +SKIP
        >>> table[0].terms[0].verifier  # doctest: +SKIP
        'math'
    """

    def __init__(self, file: CheckedFile, table: pa.Table) -> None:
        self.file = file
        self._table = table

    @classmethod
    def load(cls, path: Path, source: str, rules: RowRules) -> "SampleTable":
        """Read and check a file.

        Raises:
            UserError: the file is missing or malformed; bad rows are left out and listed.
        """
        columns, schema = _columns(_open_parquet(path), path)
        schema = schema.append(pa.field(ROW_NUMBER_COLUMN, pa.int64()))
        try:
            with tempfile.NamedTemporaryFile(prefix="tristream-rows-", suffix=".arrow") as copy:
                with pa.OSFile(copy.name, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                    file = check_file(path, source, rules, keep=writer.write_batch)
                table = pa.ipc.open_file(pa.memory_map(copy.name)).read_all()
        except OSError as error:
            raise UserError(
                f"the rows of {path} cannot be copied there ({error.strerror or error})",
                where=tempfile.gettempdir(),
                remedy="free space, or set TMPDIR to a folder with room for the data uncompressed",
            ) from None
        with path.open("rb") as stream:
            file.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return cls(file, table.select([*columns, ROW_NUMBER_COLUMN]))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, place: int) -> Sample:
        row = self._table.slice(place, 1).to_pylist()[0]
        return parse_row(row, self.file.source, row.pop(ROW_NUMBER_COLUMN))

    def __iter__(self) -> Iterator[Sample]:
        return (self[place] for place in range(len(self)))


def check_file(path: Path, source: str, rules: RowRules, keep: KeepRows = lambda _rows: None) -> CheckedFile:
    """Check a file from its first row to its last; ``keep`` is given the good rows, with their numbers.

    Raises:
        UserError: the file is missing or malformed.
    """
    parquet = _open_parquet(path)
    columns, _ = _columns(parquet, path)
    if parquet.metadata.num_rows == 0:
        raise UserError("has no rows", where=str(path), remedy="give at least one row")
    file, first = CheckedFile(path=path, source=source), 0
    for batch in _batches(parquet, columns, path):
        good = [place for place, row in enumerate(_rows(batch)) if _check_row(row, first + place, file, rules)]
        numbers = pa.array([first + place for place in good], pa.int64())
        kept = batch.select(columns).take(pa.array(good, pa.int64()))
        schema = kept.schema.append(pa.field(ROW_NUMBER_COLUMN, pa.int64()))
        keep(pa.RecordBatch.from_arrays([*kept.columns, numbers], schema=schema))
        first += batch.num_rows
    return file


def _batches(parquet: pq.ParquetFile, columns: list[str], path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a file, a few at a time."""
    batches, num_rows = parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns), 0
    while True:
        try:
            batch = next(batches, None)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot be read after row {num_rows} ({reason})", where=str(path), remedy="write the file again"
            ) from None
        if batch is None:
            return
        num_rows += batch.num_rows
        yield batch


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a batch; in place of one that holds text which is none, the error."""
    try:
        rows: list[dict[str, Any] | UnicodeDecodeError] = batch.to_pylist()
    except UnicodeDecodeError:
        rows = []
        for place in range(batch.num_rows):
            try:
                rows.append(batch.slice(place, 1).to_pylist()[0])
            except UnicodeDecodeError as error:
                rows.append(error)
    return rows


def _check_row(row: dict[str, Any] | UnicodeDecodeError, row_number: int, file: CheckedFile, rules: RowRules) -> bool:
    """Whether a row is good; notes what is known of it."""
    try:
        if isinstance(row, UnicodeDecodeError):
            raise RowError(f"has text that is not UTF-8 ({row.reason})", "write it as UTF-8")
        sample = parse_row(row, file.source, row_number)
        rules.check(sample)
    except RowError as error:
        file.bad_rows.append(BadRow(row_number=row_number, reason=error.what, remedy=error.remedy))
        return False
    file.num_good += 1
    for term in sample.terms:
        file.verifier_rows.setdefault(term.verifier, row_number)
    file.weighted_verifiers.add(sample.weighted_verifiers)
    if len(file.first_samples) < NUM_FIRST_SAMPLES:
        file.first_samples.append(sample)
    return True


def _open_parquet(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise UserError("no such file", where=str(path), remedy="correct the path in [[sources]]")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"is not a Parquet file ({reason})", where=str(path), remedy=SCHEMA_REMEDY) from None


def _columns(file: pq.ParquetFile, path: Path) -> tuple[list[str], pa.Schema]:
    """The columns that are used, by name and as a schema."""
    names = set(file.schema_arrow.names)
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        raise UserError(f"has no column '{missing[0]}'", where=str(path), remedy=SCHEMA_REMEDY)
    columns = [name for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if name in names]
    columns += [field.name for field in file.schema_arrow if field.name not in columns and _is_json_type(field.type)]
    return columns, pa.schema([file.schema_arrow.field(name) for name in columns])


def _is_json_type(kind: pa.DataType) -> bool:
    """Whether the values of a column can be JSON."""
    types = pa.types
    if types.is_struct(kind):
        return all(_is_json_type(kind.field(place).type) for place in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_dictionary(kind):
        return _is_json_type(kind.value_type)
    return any(
        is_kind(kind)
        for is_kind in (types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_string,
                        types.is_large_string)
    )  # fmt: skip
