"""The audit reads the newest whole checkpoint."""

import json
from pathlib import Path

import pytest

from tristream.audit.audit import newest_checkpoint
from tristream.runtime.errors import UserError


def write_ledger(folder: Path, name: str, text: str) -> None:
    path = folder / "checkpoints" / name / "ledger.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_unfinished_and_replaced_checkpoints_do_not_count(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for name, end in (("step-000002", 2), ("step-000010", 4), ("step-000012.tmp", 6), ("step-000011.old", 5)):
        ledger = {"settled": [[0, end]], "dropped": [[0, 1]], "pending": [[1, 2]]}
        write_ledger(tmp_path, name, json.dumps(ledger))
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert [list(numbers) for numbers in (checkpoint.settled, checkpoint.dropped, checkpoint.pending)] == [
        [0, 1, 2, 3],
        [0],
        [1],
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"settled": [[0, 1]], "pending": []}', '{"settled": 5}'])
def test_a_broken_ledger_is_named(tmp_path: Path, text: str) -> None:
    write_ledger(tmp_path, "step-000001", text)
    with pytest.raises(UserError, match=r"step-000001/ledger\.json: not a ledger"):
        newest_checkpoint(tmp_path)
