"""`tristream serve-verifiers` answers V-Triune's trainer as V-Triune's reward server does."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tristream.runtime.errors import UserError
from tristream.verifiers.offline.address_file import address_file, new_job_id, reachable_address

START_SECONDS = 60.0
PARM = json.dumps({"is_training": True, "step": 1, "total_steps": 10, "image_grid_thw": None, "image_path": None})


def request(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "response": rf"It is \boxed{{{number}}}.",
        "answer": "4",
        "prompt": "2 + 2?",
        "solution": r"\boxed{4}",
        "data_source": "sums",
        "reward_verifier": "mathverify",
        "reward_verifier_parm": PARM,
        **changes,
    }


class Server:
    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self.process = process
        host, _, port = address.partition(":")
        self.host, self.port = host, int(port)

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def judge(self, fields: Any) -> tuple[int, Any]:
        return self.ask("POST", "/judge", json.dumps(fields).encode())


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "tristream.cli", "serve-verifiers", "--port", "0", "--workers", "2"]
    files = ["--address-folder", str(folder), "--job-id", "j-test"]
    process = subprocess.Popen([*command, *files, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield Server(process, wait_for(lambda: [path.name for path in (folder / "j-test").glob("*")], process)[0])
    finally:
        process.kill()
        process.communicate()


def wait_for(look: Callable[[], list[str]], process: "subprocess.Popen[str]") -> list[str]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("the server does not come up")


def children_of(pid: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.add(int(path.parent.name))
    return found | {child for each in found for child in children_of(each)}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_32_clients_are_answered_while_some_answers_hang(tmp_path: Path) -> None:
    hanging = "<think>\nx\n</think>\n<answer>\n" + r"\boxed{9^{9^{9^{9}}}!}" + "\n</answer>"
    numbers = [4, 5, 4, 7] * 40
    with serving(tmp_path) as server, ThreadPoolExecutor(32) as clients:
        assert server.ask("GET", "/") == (200, {"message": "Reward Judge Server"})
        lines = [request(number) for number in numbers] + [request(0, response=hanging)] * 4
        answers = list(clients.map(server.judge, lines))
    assert {status for status, _ in answers} == {200}
    accuracies = [answer["rewards"]["accuracy_reward"] for _, answer in answers]
    assert accuracies == [float(number == 4) for number in numbers] + [0.0] * 4
    assert answers[0][1]["rewards"]["final_reward"] == pytest.approx(1 / 1.1)
    assert answers[-1][1]["rewards"]["format_reward"] == 1.0


def test_what_is_no_request_is_refused_and_the_next_one_answered(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert server.ask("GET", "/other")[0] == 404
        assert server.ask("POST", "/other", b"{}")[0] == 404
        assert server.ask("PUT", "/judge", b"{}")[0] == 501
        for body in (b"{", b"[]", b'{"response": "x"}', json.dumps(request(4, solution=4)).encode()):
            status, answer = server.ask("POST", "/judge", body)
            assert status == 422
            assert answer["detail"]
        status, answer = server.judge(request(4, reward_verifier="nothing"))
        assert (status, set(answer["rewards"].values())) == (200, {0.0})
        connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        for _ in range(3):  # one connection, several requests
            connection.request("POST", "/judge", json.dumps(request(4)))
            assert json.loads(connection.getresponse().read())["rewards"]["accuracy_reward"] == 1.0
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path: Path, number: int) -> None:
    with serving(tmp_path) as server:
        children = children_of(server.process.pid)
        assert children
        with ThreadPoolExecutor(1) as client:
            slow = client.submit(server.judge, request(0, response=r"\boxed{9^{9^{9^{9}}}!} " + "x" * 100))
            time.sleep(0.1)
            os.kill(server.process.pid, number)
            assert slow.result()[0] == 200
        said, _ = server.process.communicate(timeout=60)
        assert server.process.returncode == 0
        assert "export REMOTE_REWARD_JOB_ID=j-test" in said
        assert "stopped after 1 answers" in said
        assert not (tmp_path / "j-test").exists()
        deadline = time.monotonic() + 60
        while any(map(is_alive, children)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [child for child in children if is_alive(child)]


def test_an_address_that_is_taken_is_one_line_and_exit_code_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "tristream.cli", "serve-verifiers", "--port", port, "--workers", "1"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"port {port} is in use" in done.stderr


def test_the_address_file_is_there_while_it_is_answered(tmp_path: Path) -> None:
    with address_file(tmp_path, "j-1", "10.0.0.7", 8192), address_file(tmp_path, "j-1", "10.0.0.8", 8192) as other:
        assert {path.name for path in (tmp_path / "j-1").iterdir()} == {"10.0.0.7:8192", "10.0.0.8:8192"}
        assert other.read_bytes() == b""
    assert not (tmp_path / "j-1").exists()
    for job_id in ("", "..", "a/b", "a|b"):
        with pytest.raises(UserError, match="cannot name a folder"), address_file(tmp_path, job_id, "10.0.0.7", 1):
            pass


def test_job_ids_have_v_triunes_form_and_wildcards_become_an_address() -> None:
    assert len({new_job_id() for _ in range(50)}) == 50
    assert all(len(new_job_id()) == 12 and new_job_id().startswith("j-") for _ in range(50))
    assert reachable_address("10.0.0.7") == "10.0.0.7"
    assert reachable_address("0.0.0.0").count(".") == 3
    assert reachable_address("0.0.0.0") != "0.0.0.0"
