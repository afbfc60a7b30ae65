"""Producers with different engines come to one run and are killed: nothing is lost, and the mix of sources stays."""

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from chaos_stream import only_in_full
from stream_runs import COMMAND, ROOT, StreamRun
from tristream.runtime.archive.reader import ArchiveBus
from tristream.wire.events import Split
from tristream.wire.topics import PROMPTS, ROLLOUTS

PYTHON = ROOT / ".venv-vllm/bin/python"
VLLM = ("engine.type=vllm", "engine.compile=false", "engine.kv_cache_gib=0.25", f"engine.python={PYTHON}")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not (ROOT / ".venv-vllm/.installed").exists(), reason="there is no .venv-vllm: make vllm-env"),
]


def start_producer(run: StreamRun, name: str, *, python: str = COMMAND[0], settings: tuple[str, ...] = ()) -> int:
    """Start one more producer, as a user does, and return its process id."""
    command = [python, *COMMAND[1:], "produce", "--run", str(run.folder.run_file)]
    command += [word for setting in settings for word in ("--set", f"rollout.{setting}")]
    with run.folder.log(name).open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True).pid


def producers_at_work(run: StreamRun) -> Counter[str]:
    """Rollouts of each producer so far."""
    archive = ArchiveBus(run.folder.archive, "digits")
    return Counter(record.event.producer for record in archive.reader([ROLLOUTS]).read_to_end())


@only_in_full
def test_one_two_four_and_one_producers_of_two_engines_leave_a_run_that_balances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    run = StreamRun(
        tmp_path, steps=150, rollout__groups_per_step=8, evaluation__every=150, bus__num_partitions=4
    ).start()
    added: list[int] = []
    try:
        run.wait_until(lambda: run.version >= 3)
        added.append(start_producer(run, "producer-vllm", python=str(PYTHON), settings=VLLM))
        run.wait_until(lambda: len(producers_at_work(run)) == 2, 240.0)
        added += [start_producer(run, f"producer-{number}") for number in (3, 4)]
        run.wait_until(lambda: len(producers_at_work(run)) == 4, 240.0)
        for pid in added[:2]:
            os.killpg(pid, signal.SIGKILL)
        os.killpg(added[2], signal.SIGTERM)
        killed_at = run.version
        code, output = run.finish(900.0)
    finally:
        for pid in added:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    assert code == 0, output
    assert killed_at < run.summary()["steps"] == 150, "the run went on after them"
    assert run.audit().returncode == 0
    prompts = [record.event for record in ArchiveBus(run.folder.archive, "digits").reader([PROMPTS]).read_to_end()]
    groups = Counter(prompt.group.source for prompt in prompts if prompt.group.split is Split.TRAIN)
    shares = {source: num_groups / groups.total() for source, num_groups in sorted(groups.items())}
    print(f"\n{groups.total()} groups: {shares}; rollouts by producer: {dict(producers_at_work(run))}")
    assert {abs(share - 0.25) < 0.01 for share in shares.values()} == {True}
