"""Bad input is one line with place and remedy and exit code 2; nothing is left running, nothing overwritten."""

import base64
import gzip
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brokers import running_broker
from poisoned_rows import DIGITS, POISONED_ROWS, write_poisoned_rows
from stream_runs import ROOT, StreamRun
from tristream.wire.events import Part

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _embedded_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Input is as bad on any broker, and this one starts at once."""
    monkeypatch.delenv("KAFKA_HOME", raising=False)


def refuse(run: StreamRun) -> str:
    """Start a run that must be refused; returns its one line about it."""
    code, output = run.start().finish()
    assert code == 2, output
    lines = [line for line in output.splitlines() if line.startswith("tristream: ")]
    assert len(lines) == 1, output
    assert "Traceback" not in output
    assert run.processes_left() == []
    return lines[0]


def write_rows(path: Path, **reward_model: object) -> Path:
    """Two rows of the example whose reward definition is changed."""
    table = pq.read_table(DIGITS).slice(0, 2)
    rows: list[dict[str, Any]] = table.to_pylist()
    rows[1]["reward_model"] |= reward_model
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    return path


def test_an_unknown_key(tmp_path: Path) -> None:
    line = refuse(StreamRun(tmp_path, steps=1, learner__learning_rat=1e-4))
    assert "[learner.learning_rat]: unknown key" in line
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_type(tmp_path: Path) -> None:
    assert "[rollout.group_size]: input should be a valid integer" in refuse(
        StreamRun(tmp_path, steps=1, rollout__group_size="many")
    )


def test_a_missing_data_file(tmp_path: Path) -> None:
    assert "absent.parquet: no such file" in refuse(
        StreamRun(tmp_path, steps=1, sources__0__train=tmp_path / "absent.parquet")
    )


def test_a_data_file_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "cut.parquet"
    path.write_bytes(DIGITS.read_bytes()[:5000])
    assert "cut.parquet: is not a Parquet file" in refuse(StreamRun(tmp_path, steps=1, sources__0__train=path))


def test_a_row_without_its_reward_terms(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.parquet", verifier=None)
    assert "rows.parquet row 1" in refuse(StreamRun(tmp_path, steps=1, sources__0__train=path))


def test_a_verifier_that_does_not_exist(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.parquet", verifier="clairvoyance")
    line = refuse(StreamRun(tmp_path, steps=1, sources__0__train=path))
    assert "rows.parquet" in line
    assert "clairvoyance" in line


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    assert "has no config.json" in refuse(StreamRun(tmp_path, steps=1, model__path=tmp_path))


@pytest.mark.slow
def test_a_busy_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refuse(StreamRun(tmp_path, steps=1, monitoring__http_port=port))
    assert f"port {port} is in use" in line
    assert "monitoring.http_port" in line


def replay_first_contract(bootstrap_servers: str) -> None:
    """Put the recorded log of a run under contract 1 on the topics that the run had."""
    from kafka import KafkaProducer
    from kafka.admin import KafkaAdminClient

    lines = gzip.decompress((ROOT / "tests/data/contract_1_demo.jsonl.gz").read_bytes()).splitlines()
    records = [json.loads(line) for line in lines]
    num_partitions: dict[str, int] = {}
    for record in records:
        name = f"tristream.digits.{record['topic']}"
        num_partitions[name] = max(num_partitions.get(name, 1), record["partition"] + 1)
    admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
    for name, number in num_partitions.items():
        admin.create_topics({name: {"num_partitions": number, "replication_factor": 1}})
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, max_request_size=2**23)
    for record in records:
        producer.send(
            f"tristream.digits.{record['topic']}",
            partition=record["partition"],
            key=base64.b64decode(record["key"]),
            value=None if record["value"] is None else base64.b64decode(record["value"]),
            headers=[(name, base64.b64decode(value)) for name, value in record["headers"]],
        )
    producer.flush(30)
    producer.close()


@pytest.mark.slow
def test_a_log_that_another_version_of_the_contract_wrote(tmp_path: Path) -> None:
    with running_broker("embedded", tmp_path) as address:
        replay_first_contract(address)
        line = refuse(StreamRun(tmp_path, steps=2, bus__bootstrap_servers=address))
    assert "its log was written under contract 1, and this version of tristream reads contract 2" in line
    assert "give another run.id" in line


def test_rows_that_would_end_a_part_are_refused_with_their_numbers_before_the_start(tmp_path: Path) -> None:
    path = write_poisoned_rows(tmp_path / "poisoned.parquet")
    line = refuse(StreamRun(tmp_path, steps=1, sources__0__train=path))
    assert "poisoned.parquet: 6 rows cannot be used" in line
    assert [int(number) for number in re.findall(r"row (\d+):", line)] == POISONED_ROWS
    assert 'on_bad_row = "skip"' in line


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that holds three checkpoints."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_named_and_waited_for_and_the_run_ends_well(small_disk: Path, tmp_path: Path) -> None:
    run = StreamRun(tmp_path, steps=4, learner__checkpoint_every=1)
    run.folder.path.mkdir()
    (run.folder.path / "checkpoints").symlink_to(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(70 * 2**20))
    run.start()
    run.wait_until(lambda: "space at" in run.status(Part.LEARNER).get("waiting_for", ""))
    version = run.version
    ballast.unlink()
    code, output = run.finish()
    assert code == 0, output
    assert version < run.summary()["steps"] == 4
    assert run.audit().returncode == 0
