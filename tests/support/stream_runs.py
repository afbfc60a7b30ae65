"""A whole run of the digits example as a user starts it: `tristream up` in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from tristream.cli.parts import PART_COMMANDS
from tristream.config.load import load_run_file
from tristream.runtime.run_folder import RunFolder, checkpoint_step
from tristream.wire.events import Part
from tristream.wire.topics import ROLLOUTS

ROOT = Path(__file__).parents[2]
RUN_FILE = ROOT / "examples/digits/run.toml"
COMMAND = (sys.executable, "-m", "tristream.cli")
SMALL = {
    "rollout.groups_per_step": 4,
    "rollout.group_size": 4,
    "learner.warmup_steps": 0,
    "evaluation.every": 100,
}
"""Keys that make a run short."""
NUM_HELD_OUT_ROWS = 24
"""Of each source: to answer all 512 of the example twice takes longer than all else that a short run does."""
_FOLDER = TemporaryDirectory(prefix="tristream-held-out-")


@cache
def few_held_out_rows() -> Mapping[str, Path]:
    """Keys that give the example fewer held-out rows."""
    keys = {}
    for number, source in enumerate(load_run_file(RUN_FILE, environment={}).sources):
        assert source.eval is not None
        keys[f"sources.{number}.eval"] = path = Path(_FOLDER.name) / source.eval.name
        pq.write_table(pq.read_table(source.eval).slice(0, NUM_HELD_OUT_ROWS), path)
    return keys


class StreamRun:
    """One folder of a run; ``start`` may be called again to resume it."""

    def __init__(self, output: Path, *, steps: int, run_file: Path = RUN_FILE, **keys: object) -> None:
        self.folder = RunFolder(output / "digits")
        held_out = few_held_out_rows() if run_file == RUN_FILE else {}
        given = {name.replace("__", "."): value for name, value in keys.items()}
        settings: dict[str, object] = {**SMALL, **held_out, "run.output": output, **given}
        self._command = [*COMMAND, "up", str(run_file), "--steps", str(steps)]
        for name, value in settings.items():
            self._command += ["--set", f"{name}={value}"]
        self._process: subprocess.Popen[str] | None = None

    def start(self, **environment: str) -> "StreamRun":
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder.path.parent,
            env={**os.environ, **environment},
        )
        return self

    def finish(self, timeout_seconds: float = 600.0) -> tuple[int, str]:
        """Wait for the end; returns the exit code and what was printed."""
        assert self._process is not None
        try:
            output, _ = self._process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, _ = self._process.communicate()
            raise AssertionError(f"the run did not end in {timeout_seconds:.0f} s:\n{output}") from None
        return self._process.returncode, output

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)

    def status(self, part: Part) -> dict[str, Any]:
        """What the probe of a part reads; empty while there is nothing."""
        try:
            status: dict[str, Any] = json.loads((self.folder.status / f"{part}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return status

    @property
    def version(self) -> int:
        """Optimizer steps done, as the learner says."""
        return int(self.status(Part.LEARNER).get("measures", {}).get("version", 0))

    @property
    def newest_checkpoint(self) -> int:
        """Step of the newest checkpoint; 0 without one."""
        return max((checkpoint_step(path) or 0 for path in self.folder.find_checkpoints()), default=0)

    def wait_until(self, condition: Callable[[], bool], timeout_seconds: float = 300.0) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"it did not happen:\n{self.finish(1.0)[1]}")
            time.sleep(0.02)

    def kill(self, part: Part) -> None:
        """End a part at once, as a crash does."""
        os.kill(int(self.status(part)["pid"]), signal.SIGKILL)

    def is_ready(self, part: Part) -> bool:
        return self.status(part).get("state") == "ready"

    @contextmanager
    def frozen(self, part: Part) -> Iterator[None]:
        """Stop a part amid whatever it does, and let it go on after the block."""
        pid = int(self.status(part)["pid"])
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def one_more(self, part: Part) -> Iterator["subprocess.Popen[bytes]"]:
        """Another process of a part, as a user starts one; it is stopped in order with the block."""
        command = [*COMMAND, PART_COMMANDS[part].name, "--run", str(self.folder.run_file)]
        with (
            self.folder.log(f"{part}-2").open("wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log) as process,
        ):
            try:
                yield process
            finally:
                process.terminate()

    def publish_malformed_rollout(self) -> None:
        """Put bytes on the topic that no reader can decode."""
        from kafka import KafkaProducer

        settings = load_run_file(self.folder.run_file, environment={})
        producer = KafkaProducer(bootstrap_servers=settings.bus.bootstrap_servers)
        producer.send(ROLLOUTS.full_name(settings.bus.prefix, settings.run.id), value=b"\xff\xff", key=b"broken")
        producer.flush(10)
        producer.close()

    def read_page(self, path: str) -> dict[str, Any]:
        """What the live page answers."""
        address = self.status(Part.MONITOR)["address"].rstrip("/")
        with urllib.request.urlopen(f"{address}/{path}", timeout=20) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(self.folder.summary.read_text(encoding="utf-8"))
        return summary

    def audit(self) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*COMMAND, "audit", str(self.folder)],
            check=False,
            capture_output=True,
            text=True,
        )

    def kill_broker(self) -> None:
        """End the run's own broker at once."""
        (pid,) = [pid for pid, _, log in self._processes() if log == str(self.folder.log("broker"))]
        os.kill(pid, signal.SIGKILL)

    def processes_left(self, grace_seconds: float = 10.0) -> list[str]:
        """Command lines of processes that belong to this run and do not end by themselves in so long.

        A child whose part was killed ends once it looks at its pipe.
        """
        deadline = time.monotonic() + grace_seconds
        while (left := [words for _, words, _ in self._processes()]) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def _processes(self) -> Iterator[tuple[int, str, str]]:
        """Process id, command line and log of the processes that belong to this run."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                log = str((path.parent / "fd/2").readlink())
            except OSError:
                continue
            if str(self.folder) in words or log.startswith(str(self.folder)):
                yield int(path.parent.name), words, log
