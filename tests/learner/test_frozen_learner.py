"""A learner of two ranks that is frozen, replaced and woken up again harms neither its successor nor the log.

Everything is a process as a user starts it: torchrun, the assembler, and a broker.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from assembly import GROUP_SIZE, outcomes_on, publish_group
from brokers import running_broker
from tristream.config.run_file import RunFile
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Fate
from tristream.wire.topics import POLICY, STEPS

pytestmark = [pytest.mark.integration, pytest.mark.slow]

STEPS_IN_ALL, GROUPS_PER_STEP = 8, 2
TRISTREAM = ("-m", "tristream.cli")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def make_run(model: Path, output: Path, broker: str) -> RunFile:
    return RunFile.model_validate(
        {
            "run": {"id": "test", "steps": STEPS_IN_ALL, "output": output},
            "bus": {"bootstrap_servers": broker, "create_topics": True},
            "model": {"path": model},
            "sources": [{"name": "words", "train": "train.parquet"}],
            "assembly": {"address": f"127.0.0.1:{free_port()}"},
            "learner": {"checkpoint_every": 2, "keep_checkpoints": 9},
            "rollout": {"max_staleness": 20, "groups_per_step": GROUPS_PER_STEP, "group_size": GROUP_SIZE},
        }
    )


class Stage:
    """One run: its folder, its log and its processes."""

    def __init__(self, settings: RunFile, folder: Path, stack: ExitStack) -> None:
        self.folder: RunFolder = settings.run.folder
        self.bus = KafkaBus(settings.run.id, settings.bus, "test")
        self.bus.create_topics()
        self._stack = stack
        self._run_file = folder / "run.json"
        self._run_file.write_text(settings.model_dump_json(), encoding="utf-8")
        self._num_groups = 0

    def publish_steps(self, count: int) -> None:
        """Publish the groups of the next steps."""
        for _ in range(count * GROUPS_PER_STEP):
            publish_group(self.bus, self._num_groups)
            self._num_groups += 1
        self.bus.flush()

    def start(self, name: str, *command: str) -> "subprocess.Popen[bytes]":
        log = self._stack.enter_context((self._run_file.parent / f"{name}.log").open("wb"))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, *command, "--run", str(self._run_file)], stdout=log, stderr=log, env=environment
        )
        self._stack.callback(end, process)
        return process

    def start_learner(self, name: str) -> "subprocess.Popen[bytes]":
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python", "--")
        return self.start(name, *torchrun, sys.executable, *TRISTREAM, "learn")

    def log_of(self, name: str) -> str:
        return (self._run_file.parent / f"{name}.log").read_text(errors="replace")

    def wait_until(self, condition: Callable[[], object], *processes: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + 120
        while not condition():
            ended = [process.args for process in processes if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "\n".join(path.read_text()[-3000:] for path in self._run_file.parent.glob("*.log"))
                pytest.fail(f"it did not happen; ended: {ended}\n{logs}")
            time.sleep(0.2)

    def has_checkpoint(self, name: str) -> bool:
        return name in [path.name for path in self.folder.find_checkpoints()]


@contextmanager
def staged(model: Path, folder: Path) -> Iterator[Stage]:
    with running_broker("embedded", folder) as broker, ExitStack() as stack:
        stage = Stage(make_run(model, folder, broker), folder, stack)
        stack.callback(stage.bus.close)
        yield stage


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its children, frozen ones too."""
    for child in children_of(process):
        os.kill(child, signal.SIGKILL)
    process.kill()
    process.wait(timeout=60)


def children_of(process: "subprocess.Popen[bytes]") -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
        found += map(int, path.read_text().split())
    return found


def contents(folder: RunFolder) -> dict[str, Any]:
    """Names and sizes of all checkpoints and weights."""
    files = [path for top in (folder.checkpoints, folder.store) for path in top.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_one_that_wakes_up_beside_its_successor_ends_in_words_and_has_changed_nothing(
    text_checkpoint: Path, tmp_path: Path
) -> None:
    with staged(text_checkpoint, tmp_path) as stage:
        stage.publish_steps(3)
        assembler = stage.start("assembler", *TRISTREAM, "assemble")
        old = stage.start_learner("old")
        stage.wait_until(lambda: "step 3/8" in stage.log_of("old"), assembler, old)
        frozen = children_of(old)
        assert len(frozen) == 2
        for rank in frozen:
            os.kill(rank, signal.SIGSTOP)

        new = stage.start_learner("new")
        stage.publish_steps(3)
        stage.wait_until(lambda: "step 6/8" in stage.log_of("new"), assembler, new)
        stage.wait_until(lambda: stage.has_checkpoint("step-000006-e2"), assembler, new)
        before = contents(stage.folder)

        for rank in frozen:
            os.kill(rank, signal.SIGCONT)
        assert old.wait(timeout=60) != 0
        said = stage.log_of("old")
        assert "has taken over as learner under epoch 2" in said or "is superseded by that of epoch 2" in said
        assert contents(stage.folder) == before

        stage.publish_steps(2)
        assert new.wait(timeout=120) == 0, stage.log_of("new")[-3000:]
        assert assembler.poll() is None
        versions = [record.event for record in stage.bus.reader([POLICY]).read_to_end()]
        by_epoch = [
            (version.weights.version, version.durable.step) for version in versions if version.durable.epoch == 2
        ]
        assert by_epoch[-1] == (8, 8)
        successor = versions.index(next(v for v in versions if "/2-" in v.weights.uri))
        assert all("/1-" not in version.weights.uri for version in versions[successor + 1 :])
        reports = [record.event.step for record in stage.bus.reader([STEPS]).read_to_end()]
        assert reports == [1, 2, 3, 3, 4, 5, 6, 7, 8], "the third step was trained anew"
        outcomes = outcomes_on(stage.bus)
        numbers = [outcome.group.number for outcome in outcomes if outcome.fate is Fate.TRAINED]
        assert sorted(set(numbers)) == list(range(STEPS_IN_ALL * GROUPS_PER_STEP))
        assert len({(outcome.group.number, outcome.step) for outcome in outcomes}) == len(set(numbers))
