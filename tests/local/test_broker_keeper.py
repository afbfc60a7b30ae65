"""A broker of a run's own that dies: with its data it is started again, without it the run ends to be resumed."""

import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from tristream.local.broker import Broker, free_port
from tristream.local.broker_keeper import MAX_STARTS, BrokerKeeper
from tristream.runtime.errors import TryAgainError

LISTEN = """
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(float(sys.argv[2]))
"""


def make_broker(folder: Path, *, durable: bool, lives_seconds: float = 60.0) -> Broker:
    port = free_port()
    command = [sys.executable, "-c", LISTEN, str(port), str(lives_seconds)]
    return Broker("Test", command, port, folder / "broker.log", durable=durable)


def wait_for_end(broker: Broker) -> None:
    deadline = time.monotonic() + 60
    while broker.is_running and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.integration
def test_a_broker_that_kept_its_data_is_started_again_on_its_port_and_said_so(tmp_path: Path) -> None:
    said: list[str] = []
    broker = make_broker(tmp_path, durable=True)
    keeper = BrokerKeeper(broker, said.append, threading.Event())
    broker.start()
    try:
        keeper.watch()
        assert said == []
        broker.kill()
        keeper.watch()
        assert said == [f"the Test broker ended; starting it again on {broker.bootstrap_servers} with its data"]
        assert broker.is_running
        host, port = broker.bootstrap_servers.split(":")
        socket.create_connection((host, int(port)), timeout=5).close()
    finally:
        broker.stop()


@pytest.mark.integration
def test_a_broker_that_lost_its_log_ends_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    broker = make_broker(tmp_path, durable=False)
    broker.start()
    broker.kill()
    with pytest.raises(
        TryAgainError, match=r"Test broker ended, and its log with it \(see .*\); the same command resumes"
    ):
        BrokerKeeper(broker, print, threading.Event()).watch()


@pytest.mark.integration
def test_a_broker_that_ends_again_and_again_ends_the_run(tmp_path: Path) -> None:
    said: list[str] = []
    broker = make_broker(tmp_path, durable=True, lives_seconds=0.3)
    keeper = BrokerKeeper(broker, said.append, threading.Event())
    broker.start()
    for _ in range(MAX_STARTS):
        wait_for_end(broker)
        keeper.watch()
    wait_for_end(broker)
    with pytest.raises(TryAgainError, match="ends again and again"):
        keeper.watch()
    assert len(said) == MAX_STARTS
    broker.stop()
