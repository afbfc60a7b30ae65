"""The life of a verifier in a running stream: added, promoted, upgraded, retired, and nothing is restarted."""

import json
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chaos_stream import only_in_full
from stream_runs import COMMAND, StreamRun
from tristream.cli.main import app
from tristream.config.load import load_run_file
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Reader
from tristream.wire.events import CommandKind, Part, Prompt, Reward, Rollout, Split, Status, TermMode
from tristream.wire.topics import COMMANDS, PROMPTS, REWARDS, ROLLOUTS, Topic

pytestmark = [pytest.mark.integration, pytest.mark.slow]

HAS_KAFKA = "KAFKA_HOME" in os.environ
BROKERS = [
    # One of them in each run of all tests: this takes minutes.
    pytest.param("embedded", marks=only_in_full if HAS_KAFKA else ()),
    pytest.param("kafka", marks=pytest.mark.skipif(not HAS_KAFKA, reason="KAFKA_HOME names no Apache Kafka")),
]
SOURCES = ("digits_read", "digits_sum")
BRIEF = """
from tristream.verifiers import verifier


@verifier(version="{version}", components=["accuracy"])
def brief(rollout, *, max_chars: int = {max_chars}) -> float:
    return min(1.0, max_chars / max(1, len(rollout.text)))
"""


class Life:
    """A run, and a person who changes its verifiers."""

    def __init__(self, run: StreamRun) -> None:
        self.run = run

    def verifiers(self, *words: str) -> dict[str, Any]:
        """``tristream verifiers ... --json``."""
        command = [*COMMAND, "verifiers", *words, "--run", str(self.run.folder), "--json"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    def row(self, name: str) -> dict[str, Any]:
        # In this process, for it is asked again and again: another one takes the time of the run.
        listed = CliRunner().invoke(app, ["verifiers", "list", "--run", str(self.run.folder), "--json"])
        assert listed.exit_code == 0, listed.output
        rows = {f"{row['verifier']}@{row['version']}": row for row in json.loads(listed.stdout)["verifiers"]}
        return dict(rows.get(name, {"state": "unknown", "num_scored": 0}))

    def wait_for(self, name: str, is_so: Callable[[dict[str, Any]], bool]) -> None:
        self.run.wait_until(lambda: is_so(self.row(name)), timeout_seconds=180.0)

    @contextmanager
    def reader(self, topic: Topic[Any]) -> Iterator[Reader]:
        settings = load_run_file(self.run.folder.run_file, environment={})
        with closing(KafkaBus(settings.run.id, settings.bus, "test")) as bus, closing(bus.reader([topic])) as reader:
            yield reader

    def read(self, topic: Topic[Any]) -> list[Any]:
        with self.reader(topic) as reader:
            return [record.event for record in reader.read_to_end()]

    def wait_until_it_counts(self) -> None:
        """Until there is a reward of the verifier that is no shadow's."""

        def is_there() -> bool:
            rewards = [record.event for record in reader.poll(0.1)]
            return any(reward.verifier == "brief" and reward.mode is TermMode.ACTIVE for reward in rewards)

        with self.reader(REWARDS) as reader:
            self.run.wait_until(is_there)

    def sources_from(self, first: int, end: int = 2**40) -> set[str]:
        """Sources of the training prompts from one number up to another."""
        groups = [prompt.group for prompt in self.read(PROMPTS)]
        return {group.source for group in groups if group.split is Split.TRAIN and first <= group.number < end}

    def pids(self) -> Mapping[str, int]:
        """The processes of the run, but for the workers of verifiers that were added."""
        files = [path for path in self.run.folder.status.glob("*.json") if "@" not in path.name]
        return {path.name: json.loads(path.read_text())["pid"] for path in files}


@pytest.mark.parametrize("broker", BROKERS)
def test_a_verifier_is_added_promoted_upgraded_and_retired_while_the_run_goes_on(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broker == "embedded":
        monkeypatch.delenv("KAFKA_HOME", raising=False)
    code = tmp_path / "brief.py"
    run = StreamRun(tmp_path, steps=1000, learner__checkpoint_every=1, assembly__drop_zero_variance="false").start()
    life = Life(run)
    run.wait_until(lambda: run.version >= 1)
    pids = life.pids()

    code.write_text(BRIEF.format(version=1, max_chars=20))
    assert life.verifiers("add", f"{code}:brief", "--sources", ",".join(SOURCES))["state"] == "in_force"
    life.wait_for("brief@1", lambda row: row["state"] == "shadow" and row["num_scored"] > 0)
    first = life.verifiers("promote", "brief", "--weight", "0.5", "--sources", ",".join(SOURCES))
    life.wait_until_it_counts()

    code.write_text(BRIEF.format(version=2, max_chars=10))
    life.verifiers("add", f"{code}:brief")
    life.wait_for("brief@2", lambda row: row["state"] == "shadow" and row["num_scored"] > 0)
    second = life.verifiers("promote", "brief@2", "--weight", "accuracy=0.25", "--sources", ",".join(SOURCES))
    life.verifiers("retire", "brief@1")
    life.wait_for("brief@1", lambda row: row["state"] == "retired")
    assert life.row("brief@2")["state"] == "active"
    compared = life.verifiers("compare", "brief@2", "--with", "brief@1")["sources"]
    third = life.verifiers("retire", "brief@2")
    life.wait_for("brief@2", lambda row: row["state"] == "retired")

    assert life.pids() == pids
    assert sum(row["num_rollouts"] for row in compared.values()) > 0
    assert (run.folder.path / "verifiers/brief@1.py").read_text() == BRIEF.format(version=1, max_chars=20)
    check_terms(life.read(PROMPTS), first["from_number"], second["from_number"], third["from_number"])
    rewards, rollouts = life.read(REWARDS), life.read(ROLLOUTS)  # the run goes on: what they belong to is read last
    check_groups(life.read(PROMPTS), rollouts, rewards)
    marks = [change["what"] for change in run.read_page("api/verifiers")["changes"]]
    assert set(marks) >= {"add brief@1", "promote brief@1", "add brief@2", "promote brief@2", "retire brief@1"}
    run.interrupt()
    exit_code, output = run.finish()
    assert exit_code == 130, output
    assert "brief@1 is added; its worker starts" in output
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout
    assert run.processes_left() == []


@only_in_full
def test_a_source_whose_verifier_is_down_waits_and_the_others_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_waiting() -> bool:
        words = "source digits_sum waits for brief@1, which no worker serves"
        return words in run.status(Part.DISPATCHER).get("waiting_for", "")

    monkeypatch.delenv("KAFKA_HOME", raising=False)
    code = tmp_path / "brief.py"
    code.write_text(BRIEF.format(version=1, max_chars=20))
    run = StreamRun(tmp_path, steps=1000, learner__checkpoint_every=1, assembly__drop_zero_variance="false").start()
    life = Life(run)
    run.wait_until(lambda: run.version >= 1)
    life.verifiers("add", f"{code}:brief")
    life.wait_for("brief@1", lambda row: row["num_workers"] == 1 and row["num_scored"] > 0)
    life.verifiers("promote", "brief", "--weight", "0.5", "--sources", "digits_sum")
    life.wait_until_it_counts()

    kept = run.folder.path / "verifiers/brief@1.py"
    kept.write_text("what it is no more")
    os.kill(json.loads((run.folder.status / "verifier-brief@1.json").read_text())["pid"], signal.SIGKILL)
    run.wait_until(is_waiting)
    stopped_at = run.version
    run.wait_until(lambda: run.version >= stopped_at + 5)
    assert is_waiting()

    kept.write_text(code.read_text())
    command = [*COMMAND, "verify", "--run", str(run.folder.run_file), "--verifier", "brief@1"]
    with (
        run.folder.log("by-hand").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as worker,
    ):
        try:
            run.wait_until(lambda: not is_waiting())
            resumed = [c for c in life.read(COMMANDS) if c.kind is CommandKind.RESUME_SOURCE][-1]
            run.wait_until(lambda: "digits_sum" in life.sources_from(resumed.from_number))
        finally:
            worker.terminate()
    (pause,) = [c for c in life.read(COMMANDS) if c.kind is CommandKind.PAUSE_SOURCE]
    assert "digits_sum" not in life.sources_from(pause.from_number, resumed.from_number)
    run.interrupt()
    exit_code, output = run.finish()
    assert exit_code == 130, output
    assert "the worker of brief@1 is given up, and the run goes on without it" in output
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout


@only_in_full
def test_a_shadow_leaves_every_bit_of_the_weights_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    code = tmp_path / "brief.py"
    code.write_text(BRIEF.format(version=1, max_chars=20))
    weights = []
    for name in ("plain", "with-shadow"):
        (tmp_path / name).mkdir()
        # One version, one batch: what is sampled and trained depends on the seed alone.
        run = StreamRun(
            tmp_path / name, steps=5, rollout__max_staleness=0, assembly__drop_zero_variance="false",
            learner__checkpoint_every=1,
        ).start()  # fmt: skip
        if name == "with-shadow":
            run.wait_until(lambda run=run: run.version >= 1)  # type: ignore[misc]
            Life(run).verifiers("add", f"{code}:brief")
        exit_code, output = run.finish()
        assert exit_code == 0, output
        weights.append({path.stem.partition("-")[2] for path in run.folder.path.rglob("*.safetensors")})
    assert len(weights[0]) > 1
    assert weights[0] == weights[1]


def check_terms(prompts: list[Prompt], first: int, second: int, third: int) -> None:
    """Each training prompt asks for the version that holds at its number."""
    num_by_version: dict[str | None, int] = defaultdict(int)
    for prompt in prompts:
        if prompt.group.split is Split.EVAL:
            continue
        found = [term.version for term in prompt.reward.terms if term.verifier == "brief"]
        number = prompt.group.number
        version = None if number < first or number >= third else "1" if number < second else "2"
        assert found == ([version] if version and prompt.group.source in SOURCES else [])
        num_by_version[version] += 1
    assert all(num_by_version[version] > 0 for version in (None, "1", "2"))


def check_groups(prompts: list[Prompt], rollouts: list[Rollout], rewards: list[Reward]) -> None:
    """No group mixes two definitions: its rollouts are those of its prompt, and one version of a term counts."""
    specs = {prompt.group.id: prompt.reward for prompt in prompts}
    for rollout in rollouts:
        assert rollout.reward == specs[rollout.group.id]
    versions: dict[tuple[str, str], set[str]] = defaultdict(set)
    for reward in rewards:
        assert reward.status is Status.SCORED, reward.detail
        if reward.mode is TermMode.ACTIVE:
            versions[reward.group.id, reward.verifier].add(reward.version)
    assert all(len(found) == 1 for found in versions.values())
    for (group, verifier), (version,) in versions.items():
        assert [term.version for term in specs[group].terms if term.verifier == verifier] == [version]
