"""What one rank meets concerns all: nobody stays behind in a collective. Ranks are processes, as under torchrun."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from learner_runs import settings_for
from ranks import run_ranks
from scratch_batches import serving_scratch_batches
from tristream.learner.ranks import Failure, Ranks
from tristream.learner.waiting import NoSpaceError
from tristream.runtime.errors import StoppedError, TryAgainError, UserError
from tristream.runtime.run_folder import RunFolder, ledger_file
from tristream.wire.codecs.batches import commit_from_json


def test_work_is_done_again_until_nothing_is_missing_and_says_what_it_waits_for() -> None:
    waits: list[str] = []
    left = [NoSpaceError("/data"), NoSpaceError("/data")]

    def work() -> int:
        if left:
            raise left.pop()
        return 7

    assert Ranks(0, 1, stop=threading.Event(), report_waiting=waits.append).together(work) == (7,)
    assert waits == ["space at /data"] * 2


def test_a_stop_ends_a_wait_but_not_the_first_try() -> None:
    stop = threading.Event()
    stop.set()
    ranks = Ranks(0, 1, stop=stop)
    assert ranks.on_rank_0(lambda: 3) == 3

    def work() -> None:
        raise NoSpaceError("/data")

    with pytest.raises(StoppedError):
        ranks.together(work)


def test_an_error_is_told_in_its_own_words() -> None:
    user = UserError("it is gone", where="here", remedy="look there")
    assert str(Failure.of(user, 0).as_error()) == str(user)
    other = Failure.of(ValueError("odd"), 3).as_error()
    assert isinstance(other, TryAgainError)
    assert str(other) == "rank 3 failed: ValueError: odd"
    kinds = [Failure.of(error, 0).severity for error in (StoppedError(), ValueError(), user)]
    assert kinds == sorted(kinds)


TELLING = """
import json, sys, threading
from pathlib import Path
import torch
from tristream.learner.ranks import Ranks
from tristream.learner.training.distributed import start_process_group
from tristream.learner.waiting import NoSpaceError
from tristream.runtime.errors import StoppedError, TryAgainError, UserError

rank, size = start_process_group()
waits = []
ranks = Ranks(rank, size, stop=threading.Event(), report_waiting=waits.append)
found = {}

def outcome_of(name, work):
    try:
        found[name] = list(ranks.together(work))
    except Exception as error:
        found[name] = f"{type(error).__name__}: {error}"

def on(wanted, error):
    def work():
        if rank == wanted:
            raise error
        return rank
    return work

left = [NoSpaceError("/data")] if rank == 1 else []

def wait_on_rank_1():
    if left:
        raise left.pop()
    return rank

outcome_of("values", lambda: rank * 10)
outcome_of("waited", wait_on_rank_1)
outcome_of("stopped", on(0, StoppedError("stop")))
outcome_of("refused", on(0, UserError("no", where="there", remedy="mend it")))
outcome_of("failed", on(1, ValueError("odd")))
found["from rank 0"] = ranks.on_rank_0(lambda: f"rank {rank}")
found["waits"] = waits
Path(sys.argv[1]).with_name(f"found-{rank}").write_text(json.dumps(found))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_get_the_values_the_waits_and_the_errors_of_each_other(tmp_path: Path) -> None:
    program = tmp_path / "rank.py"
    program.write_text(TELLING, encoding="utf-8")
    run_ranks(program, str(tmp_path / "here"), num_ranks=2)
    found: list[dict[str, Any]] = [json.loads((tmp_path / f"found-{rank}").read_text()) for rank in (0, 1)]
    for of_rank in found:
        assert of_rank["values"] == [0, 10]
        assert of_rank["waited"] == [0, 1]
        assert of_rank["stopped"].startswith("StoppedError")
        assert of_rank["refused"] == "UserError: there: no; mend it"
        assert of_rank["from rank 0"] == "rank 0"
        assert of_rank["waits"] == ["space at /data"]
    assert found[0]["failed"] == "TryAgainError: rank 1 failed: ValueError: odd"
    assert found[1]["failed"] == "ValueError: odd"


LEARNER = """
import sys, threading, time
from pathlib import Path
import torch
from tristream.config.parts import LearnerSettings
from tristream.learner.main import run_rank
from tristream.learner.training.distributed import start_process_group
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part

rank, world_size = start_process_group()
settings = LearnerSettings.model_validate_json(Path(sys.argv[1]).read_text())
bus = reporter = None
stop = threading.Event()
if rank == 0:
    bus = MemoryBus("test")
    reporter = PartReporter(settings.run.folder, "test", Part.LEARNER, beat_seconds=0.1)

def watch():
    while not Path(sys.argv[1]).with_name(f"stop-{rank}").exists():
        time.sleep(0.05)
    stop.set()

threading.Thread(target=watch, daemon=True).start()
run_rank(settings, lambda _say: bus, reporter, rank=rank, world_size=world_size, stop=stop)
torch.distributed.destroy_process_group()
"""


def write_program(folder: Path, model: Path, address: str, zero_stage: int = 0) -> Path:
    settings = settings_for(model, folder, address, steps=2, zero_stage=zero_stage)
    (folder / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
    (folder / "rank.py").write_text(LEARNER, encoding="utf-8")
    return folder / "rank.py"


@pytest.mark.slow
def test_a_stop_of_rank_0_in_its_commit_ends_both_ranks_and_loses_no_outcome(
    vision_checkpoint: Path, tmp_path: Path
) -> None:
    """Only rank 0 is told: it waits for an answer, and the other one waits for rank 0."""
    with serving_scratch_batches() as (servicer, address):

        def hang() -> None:
            (tmp_path / "stop-0").touch()
            time.sleep(10.0)

        servicer.fail_commit = hang
        program = write_program(tmp_path, vision_checkpoint, address)
        run_ranks(program, str(tmp_path / "settings.json"), num_ranks=2)
    (checkpoint,) = RunFolder(tmp_path / "test").find_checkpoints()
    pending = commit_from_json(ledger_file(checkpoint).read_text(encoding="utf-8")).steps
    assert [step.step for step in pending] == [1, 2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("free_kib", [40, 400])
def test_two_ranks_wait_for_space_for_a_checkpoint_and_go_on_when_there_is_some(
    vision_checkpoint: Path, tmp_path: Path, small_disk: Path, free_kib: int
) -> None:
    run = RunFolder(tmp_path / "test")
    run.path.mkdir()
    run.checkpoints.symlink_to(small_disk)
    disk = os.statvfs(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(disk.f_bavail * disk.f_frsize - free_kib * 1024))
    with serving_scratch_batches() as (servicer, address), ThreadPoolExecutor(1) as pool:
        program = write_program(tmp_path, vision_checkpoint, address, zero_stage=2)
        ended = pool.submit(run_ranks, program, str(tmp_path / "settings.json"), num_ranks=2)
        status_file = run.status / "learner.json"
        try:
            while not ended.done():
                if status_file.exists() and f"space at {run.checkpoints}" in status_file.read_text():
                    break
                time.sleep(0.05)
            assert not ended.done(), ended.exception()
            time.sleep(2.5)
            assert not ended.done(), "both ranks wait"
            assert servicer.committed == []
        finally:
            ballast.unlink()
        ended.result(timeout=120)
    assert [step.step for step in servicer.committed] == [1, 2]
    (checkpoint,) = run.find_checkpoints()
    names = {path.name for path in checkpoint.rglob("*.pt")}
    assert len(names) == 3, "the model's state, and the optimizer's of two ranks"
