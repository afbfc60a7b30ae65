"""Writing the archive: every record that a reader saw, once, durable before the reader commits.

    output/id/archive/0001-LOG/TOPIC-PARTITION.records

The first log that was seen is 0001, the next 0002: a broker that forgets begins a new one when it is started again.
Statuses are left out: a process tells one every second for weeks, and nothing is audited or replayed from them.
"""

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from tristream.runtime.archive.blocks import find_last_block, pack_block, pack_record
from tristream.runtime.bus.protocol import Record
from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.wire.topics import PARTS

LOG = logging.getLogger("tristream.archive")

LEFT_OUT = frozenset({PARTS.name})
"""Topics whose records are not kept."""
BLOCK_BYTES = 2**20
"""A block is closed at this size; one record may be larger."""
SUFFIX = ".records"
_LOG_FOLDER = re.compile(r"(\d+)-(.+)")


@dataclass(slots=True)
class _PartitionFile:
    """What is known of one file, and what is not yet in it."""

    path: Path
    size: int
    last_offset: int
    file: BinaryIO | None = None
    packed: list[bytes] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    timestamps_ns: list[int] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path) -> "_PartitionFile":
        """Find where the last whole block ends; what is torn after it is cut off with the next write."""
        last = find_last_block(path) if path.exists() else None
        if last is None:
            return cls(path=path, size=0, last_offset=-1)
        return cls(path=path, size=last.end, last_offset=last.last_offset)

    def append(self, record: Record[bytes]) -> None:
        """Take a record, unless the file has it."""
        newest = self.offsets[-1] if self.offsets else self.last_offset
        if record.offset > newest:
            self.packed.append(pack_record(record))
            self.offsets.append(record.offset)
            self.timestamps_ns.append(record.timestamp_ns)

    def write(self) -> None:
        """Write what was taken; when that fails, everything is as before."""
        if self.file is None:
            self.file = self.path.open("r+b" if self.path.exists() else "w+b", buffering=0)
        data = b"".join(self._blocks())
        os.ftruncate(self.file.fileno(), self.size)
        view, position = memoryview(data), self.size
        while view:
            written = os.pwrite(self.file.fileno(), view, position)
            view, position = view[written:], position + written

    def settle(self) -> None:
        """Make durable what was written."""
        assert self.file is not None, "written before"
        os.fdatasync(self.file.fileno())
        self.size = os.fstat(self.file.fileno()).st_size
        self.last_offset = self.offsets[-1]
        self.packed, self.offsets, self.timestamps_ns = [], [], []

    def _blocks(self) -> list[bytes]:
        blocks, first, num_bytes = [], 0, 0
        for position, packed in enumerate(self.packed):
            num_bytes += len(packed)
            if num_bytes >= BLOCK_BYTES or position == len(self.packed) - 1:
                blocks.append(
                    pack_block(
                        self.packed[first : position + 1],
                        self.offsets[first],
                        self.offsets[position],
                        self.timestamps_ns[first],
                    )
                )
                first, num_bytes = position + 1, 0
        return blocks


class ArchiveWriter:
    """Appends the records of one log; used by one thread, as the tap of a reader.

    Args:
        folder: the archive of the run.
        log_id: identity of the log that is read.

    Raises:
        UserError: the log has no identity, so that a new one could not be told from it.
    """

    def __init__(self, folder: Path, log_id: str) -> None:
        if not log_id:
            raise UserError(
                "the broker gives its topics no identity, so that its records cannot be archived",
                where="[monitoring] archive",
                remedy="set it to false, or use a broker that does",
            )
        self._folder = _begin_log(folder, log_id)
        self._files: dict[tuple[str, int], _PartitionFile] = {}

    def append(self, record: Record[bytes]) -> None:
        """Take a record; one that the archive has already changes nothing."""
        if record.topic in LEFT_OUT:
            return
        key = (record.topic, record.partition)
        file = self._files.get(key)
        if file is None:
            path = self._folder / f"{record.topic}-{record.partition}{SUFFIX}"
            file = self._files[key] = _PartitionFile.open(path)
        file.append(record)

    def sync(self) -> None:
        """Make everything durable that was taken.

        Raises:
            OSError: the disk is full, or not writable; nothing is lost, and it may be tried again.
        """
        waiting = [file for file in self._files.values() if file.packed]
        is_new = any(file.size == 0 for file in waiting)
        for file in waiting:
            file.write()
        reach("archive.written")
        for file in waiting:
            file.settle()
        if is_new:
            _sync_folder(self._folder)

    def close(self) -> None:
        """Release the files; what was not made durable is left out."""
        for file in self._files.values():
            if file.file is not None:
                file.file.close()
                file.file = None


def find_logs(folder: Path) -> dict[str, Path]:
    """Folders of the logs in an archive by log id, in the order in which the logs were begun."""
    if not folder.is_dir():
        return {}
    matches = [(match, path) for path in folder.iterdir() if (match := _LOG_FOLDER.fullmatch(path.name))]
    return {match[2]: path for match, path in sorted(matches, key=lambda found: int(found[0][1]))}


def _begin_log(folder: Path, log_id: str) -> Path:
    known = find_logs(folder)
    if log_id in known:
        return known[log_id]
    path = folder / f"{len(known) + 1:04d}-{log_id}"
    path.mkdir(parents=True)
    _sync_folder(folder)
    LOG.info("the archive begins a log in %s", path)
    return path


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
