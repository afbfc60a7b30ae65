"""A long run in a short time: a million groups through dispatcher, assembler and a learner on Apache Kafka.

    python -m bench.soak [--groups 1000000]

Engine, verifier and update compute nothing (``bench.null_stream``); everything else is what a real run has: the
prompts, rollouts, rewards and outcomes are on the broker, the learner checkpoints and commits. Said are the rate, the
memory of the parts by tenths of the run, the size of policy events, and how long an attach of eight ranks to a new
assembler takes at the end.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import grpc
from bench.measuring import ROOT, make_table, say, show
from bench.null_stream.rows import write_rows

from tristream.batches.v1 import batch_service_pb2, batch_service_pb2_grpc
from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.local.broker import free_port, start_broker
from tristream.local.part_process import spawn
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.run_folder import ledger_file
from tristream.wire.codecs.batches import commit_from_json
from tristream.wire.codecs.ledgers import ledger_to_message
from tristream.wire.events import Part
from tristream.wire.topics import POLICY

EQUAL_SHARE = 0.3
GROUPS_PER_STEP = 256
NUM_RANKS = 8
SAMPLE_SECONDS = 5.0
NUM_TENTHS = 10
RUN_FILE = """
[run]
id = "soak"
steps = {steps}
output = "runs"

[model]
path = "{model}"

[rollout]
groups_per_step = {groups_per_step}
group_size = 2
max_staleness = 2
pause_source_after = 0

[evaluation]
every = 100

[learner]
checkpoint_every = 10

[[sources]]
name = "sevens"
train = "train.parquet"
eval = "eval.parquet"
"""


@dataclass(slots=True)
class Process:
    """A part of the soak and the memory that it took."""

    part: Part
    command: Sequence[str]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    memory_mib: list[tuple[float, float]] = field(default_factory=list)
    """Share of the run that was done, and MiB of memory."""

    def start(self) -> None:
        """Start it, again if need be."""
        self.process = spawn(self.command, self.log)

    def sample(self, share_done: float) -> None:
        """Remember how much memory it has."""
        if self.process is not None and self.process.poll() is None:
            self.memory_mib.append((share_done, resident_mib(self.process.pid)))

    def memory_by_tenth(self) -> list[float]:
        """Mean MiB in each tenth of the run; not a number where nothing was sampled."""
        tenths: list[list[float]] = [[] for _ in range(NUM_TENTHS)]
        for share, mib in self.memory_mib:
            tenths[min(int(share * NUM_TENTHS), NUM_TENTHS - 1)].append(mib)
        return [fmean(values) if values else float("nan") for values in tenths]


class Soak:
    """One run."""

    def __init__(self, settings: RunFile, run_json: Path, folder: Path) -> None:
        self.settings = settings
        cli = [sys.executable, "-m", "tristream.cli"]
        run = ["--run", str(run_json)]
        null = [sys.executable, "-m"]
        commands = {
            Part.DISPATCHER: [*cli, "dispatch", *run],
            Part.PRODUCER: [*null, "bench.null_stream.producer", *run, "--equal-share", str(EQUAL_SHARE), "--scores"],
            Part.ASSEMBLER: [*cli, "assemble", *run],
            Part.LEARNER: [*null, "bench.null_stream.learner", *run],
        }
        self.parts = {part: Process(part, command, folder / f"{part}.log") for part, command in commands.items()}
        self._bus = KafkaBus(settings.run.id, settings.bus, "soak")
        self._bus.create_topics()
        self._policy = self._bus.reader([POLICY])
        self.version = 0
        self.largest_policy_bytes = 0

    def run(self) -> float:
        """Run to the end; returns the seconds it took.

        Raises:
            RuntimeError: a part ended before its time.
        """
        for process in self.parts.values():
            process.start()
        self._wait_until(lambda: self.version >= 1)
        started, total = time.monotonic(), self.settings.run.steps
        said_at = started
        while self.version < total:
            time.sleep(SAMPLE_SECONDS)
            self._follow()
            for process in self.parts.values():
                process.sample(self.version / total)
            if time.monotonic() - said_at > 60:
                said_at = time.monotonic()
                say(f"step {self.version} of {total}")
        seconds = time.monotonic() - started
        learner = self.parts[Part.LEARNER].process
        assert learner is not None, "it was started"
        learner.wait(120)
        return seconds

    def attach(self) -> float:
        """Kill the assembler and attach eight ranks to a new one; returns the seconds until all are answered."""
        assembler = self.parts[Part.ASSEMBLER]
        assert assembler.process is not None, "it was started"
        assembler.process.send_signal(signal.SIGKILL)
        assembler.process.wait()
        started = time.monotonic()
        assembler.start()
        newest = self.settings.run.folder.find_checkpoints()[-1]
        ledger = commit_from_json(ledger_file(newest).read_text(encoding="utf-8")).ledger
        request = batch_service_pb2.AttachRequest(
            run=self.settings.run.id,
            world_size=NUM_RANKS,
            ledger=ledger_to_message(ledger),
            epoch=ledger.epoch + 1,
            instance="soak",
        )
        threads = [threading.Thread(target=self._attach_rank, args=(rank, request)) for rank in range(NUM_RANKS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.monotonic() - started

    def stop(self) -> None:
        """End all parts and the reader."""
        for process in self.parts.values():
            if process.process is not None:
                process.process.kill()
                process.process.wait()
        self._policy.close()
        self._bus.close()

    def _attach_rank(self, rank: int, attach: batch_service_pb2.AttachRequest) -> None:
        channel = grpc.insecure_channel(self.settings.assembly.address)
        stub = batch_service_pb2_grpc.BatchServiceStub(channel)
        step = batch_service_pb2.NextBatchRequest(step=attach.ledger.step + 1, rank=rank, epoch=attach.epoch)
        is_ready = False
        while not is_ready:
            try:
                if rank == 0:
                    is_ready = stub.Attach(attach, timeout=30, wait_for_ready=True).ready
                else:
                    waiting_for = stub.NextBatch(step, timeout=30, wait_for_ready=True).waiting_for
                    is_ready = "reading" not in waiting_for
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE):
                    raise
                time.sleep(0.1)
        channel.close()

    def _wait_until(self, condition: Callable[[], bool], timeout_seconds: float = 300.0) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing happened for {timeout_seconds:.0f} s at step {self.version}")
            time.sleep(0.2)
            self._follow()

    def _follow(self) -> None:
        for record in self._policy.poll(0.2):
            self.version = record.event.weights.version
            self.largest_policy_bytes = max(self.largest_policy_bytes, len(POLICY.codec.encode(record.event)))
        for process in self.parts.values():
            ended = process.process is not None and process.process.poll() not in (None, 0)
            if ended and process.process is not None:
                raise RuntimeError(f"the {process.part} ended with {process.process.returncode}, see {process.log}")


def resident_mib(pid: int) -> float:
    """MiB of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


@contextmanager
def started_soak(folder: Path, num_groups: int) -> Iterator[Soak]:
    """A broker and the settings of a run that trains so many groups as are not dropped."""
    steps = round(num_groups * (1 - EQUAL_SHARE) / GROUPS_PER_STEP)
    write_rows(folder / "train.parquet", 4096)
    write_rows(folder / "eval.parquet", 8)
    model = ROOT / "examples/digits/model"
    run_file = folder / "run.toml"
    run_file.write_text(RUN_FILE.format(steps=steps, model=model, groups_per_step=GROUPS_PER_STEP), encoding="utf-8")
    with ExitStack() as stack:
        broker = start_broker(folder)
        stack.callback(broker.stop)
        keys = {
            "run.output": folder,
            "bus.bootstrap_servers": broker.bootstrap_servers,
            "bus.durable": str(broker.durable).lower(),
            "assembly.address": f"127.0.0.1:{free_port()}",
        }
        settings = load_run_file(run_file, [f"{name}={value}" for name, value in keys.items()], environment={})
        run_json = folder / "run.json"
        run_json.write_text(settings.model_dump_json(), encoding="utf-8")
        say(f"{broker.kind}, {steps} steps of {GROUPS_PER_STEP} groups, logs in {folder}")
        soak = Soak(settings, run_json, folder)
        stack.callback(soak.stop)
        yield soak


def main() -> None:
    """Soak and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=1_000_000, help="groups to dispatch")
    parser.add_argument("--output", type=Path, help="where logs and log segments go; a temporary folder if not given")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        output = arguments.output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        output.mkdir(parents=True, exist_ok=True)
        soak = stack.enter_context(started_soak(output, arguments.groups))
        seconds = soak.run()
        attach_seconds = soak.attach()
        report(soak, arguments.groups, seconds, attach_seconds)


def report(soak: Soak, num_groups: int, seconds: float, attach_seconds: float) -> None:
    """Print the tables."""
    rows = []
    for part in (Part.DISPATCHER, Part.ASSEMBLER, Part.LEARNER):
        tenths = soak.parts[part].memory_by_tenth()
        growth = 100 * (tenths[-1] / tenths[0] - 1)
        rows.append([str(part), *(f"{mib:.0f}" for mib in tenths), f"{growth:+.1f} %"])
    columns = ["part", *(f"{tenth + 1}/{NUM_TENTHS}" for tenth in range(NUM_TENTHS)), "growth"]
    facts = {
        "groups dispatched": f"{num_groups:,}",
        "seconds": f"{seconds:.0f}",
        "groups a second": f"{num_groups / seconds:.0f}",
        "largest policy event, KiB": f"{soak.largest_policy_bytes / 1024:.1f}",
        f"attach of {NUM_RANKS} ranks to a new assembler, s": f"{attach_seconds:.1f}",
    }
    show(
        make_table("memory, MiB, by tenths of the run", columns, rows),
        make_table("the run", ["", ""], list(facts.items())),
    )


if __name__ == "__main__":
    main()
