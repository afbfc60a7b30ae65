"""The pool against verifiers that hang, crash, lie and raise; nothing is mocked, processes die."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest

from tristream.runtime.errors import UserError
from tristream.verifiers.contract import Image, Message, Rollout
from tristream.verifiers.definition import Need, Scope
from tristream.verifiers.pool import Judgement, Pool, PoolError, Task, Verdict, pure_lane
from tristream.wire.events import Status

FILE = Path(__file__).parent / "misbehaving_verifiers.py"
MISBEHAVING = "misbehaving@7"
SCORED, ERROR, TIMEOUT, UNSCORABLE = Status.SCORED, Status.ERROR, Status.TIMEOUT, Status.UNSCORABLE
CPU_SECONDS = 0.5

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user than root has nothing to drop")


def entry_point(name: str) -> str:
    return f"{FILE}:{name}"


SERVED = {
    MISBEHAVING: entry_point("misbehaving"),
    "unruly@1": entry_point("unruly"),
    "strict@1": entry_point("strict"),
    "longest@1": entry_point("longest"),
    "patient@1": entry_point("patient"),
    "pictured@1": entry_point("pictured"),
}


@contextmanager
def running(served: dict[str, str], num_processes: int = 1, cpu_seconds: float | None = None) -> Iterator[Pool]:
    pool = Pool(served, num_processes=num_processes, cpu_seconds=cpu_seconds)
    try:
        pool.start()
        yield pool
    finally:
        pool.stop()


@pytest.fixture(scope="module")
def shared() -> Iterator[Pool]:
    with running(SERVED) as pool:
        yield pool


def make_task(text: str, truth: str = "x", verifier: str = MISBEHAVING, params_json: str = "{}") -> Task:
    rollout = Rollout(text=text, ground_truth=truth, step=5, total_steps=10)
    return Task(verifier=verifier, rollouts=(rollout,), params_json=params_json)


def verdicts_of(futures: Sequence["Future[Verdict]"]) -> list[Verdict]:
    return [future.result(timeout=60) for future in futures]


def judge(pool: Pool, *texts: str, truth: str = "x", verifier: str = MISBEHAVING) -> list[Verdict]:
    return verdicts_of(pool.submit([make_task(text, truth, verifier) for text in texts]))


def statuses(verdicts: Sequence[Verdict]) -> list[Status]:
    return [verdict.status for verdict in verdicts]


def judgement(verdict: Verdict) -> Judgement:
    assert verdict.status is SCORED, verdict.detail
    (found,) = verdict.judgements
    return found


def accuracy(verdict: Verdict) -> float:
    return judgement(verdict).components["accuracy"]


def is_alive(pid: float) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid:.0f}/status").read_text()
    except OSError:
        return False


def wait_until_gone(pid: float) -> None:
    for _ in range(500):
        if not is_alive(pid):
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid:.0f} is left")


def test_scores_come_back_in_order_with_their_parameters(shared: Pool) -> None:
    num_restarts = shared.num_restarts
    verdicts = judge(shared, *["x", "y"] * 50)
    assert [accuracy(verdict) for verdict in verdicts] == [1.0, 0.0] * 50
    assert judgement(verdicts[0]).params_json == '{"step": 5}'
    assert all(verdict.is_truth_fine and 0 <= verdict.cpu_seconds < 0.5 for verdict in verdicts)
    assert shared.num_restarts == num_restarts


def test_the_facts_of_a_verifier_are_told_by_a_child(shared: Pool) -> None:
    strict, patient = shared.facts["strict@1"], shared.facts["patient@1"]
    assert (strict.name, strict.version, strict.scope) == ("strict", "1", Scope.ROLLOUT)
    assert strict.components == {"value": (-1.0, 1.0), "style": (0.0, 1.0)}
    assert shared.facts["longest@1"].scope is Scope.GROUP
    assert patient.is_async
    assert not strict.is_async
    assert shared.facts["unruly@1"].needs == {Need.PROCESSES, Need.NETWORK}
    assert shared.facts[MISBEHAVING].limits.memory_mib == 256


def test_a_rollout_arrives_as_it_is(shared: Pool) -> None:
    images = (Image(media_type="image/png", sha256="a", data=b"first"), Image(media_type="image/png", sha256="b"))
    rollout = Rollout(
        text="lone \ud800 surrogate, \u0000 and 図",
        messages=(Message(role="user", content="<image>?"),),
        images=images,
        columns={"ability": ["a", {"b": None}]},
    )
    found = judgement(verdicts_of(shared.submit([Task(verifier="pictured@1", rollouts=(rollout,))]))[0])
    assert found.metrics == {"bytes_0": 5.0, "bytes_1": 0.0}
    assert found.components == {"accuracy": 1.0}


def test_a_rollout_that_is_no_json_is_an_error(shared: Pool) -> None:
    rollout = Rollout(text="x", columns={"ability": object()})
    (verdict,) = verdicts_of(shared.submit([Task(verifier=MISBEHAVING, rollouts=(rollout,))]))
    assert verdict.status is ERROR
    assert "not JSON serializable" in verdict.detail


def test_only_the_rollout_that_hangs_times_out(shared: Pool) -> None:
    num_restarts = shared.num_restarts
    verdicts = judge(shared, "x", "hang", *["x"] * 30)
    assert statuses(verdicts) == [SCORED, TIMEOUT, *[SCORED] * 30]
    assert verdicts[1].judgements == ()
    assert verdicts[1].detail == f"no score after {CPU_SECONDS} s of CPU time"
    assert verdicts[1].cpu_seconds >= CPU_SECONDS
    assert shared.num_restarts == num_restarts + 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [("crash", "exit code 7"), ("segfault", "SIGSEGV"), ("hang up", "SIGKILL")],
)
def test_only_the_rollout_that_crashes_its_process_is_an_error(shared: Pool, text: str, reason: str) -> None:
    verdicts = judge(shared, "x", text, "x")
    assert statuses(verdicts) == [SCORED, ERROR, SCORED]
    assert reason in verdicts[1].detail


RAISED = {
    "raise": "RuntimeError: no such luck (misbehaving_verifiers.py:",
    "exit": "SystemExit: 3",
    "interrupt": "KeyboardInterrupt",
    "recurse": "RecursionError",
    "mute": "without a text",
    "surrogate detail": "a ? surrogate",
    "nan": "component 'accuracy' is nan",
    "too much": "outside its range 0..1",
    "huge number": "OverflowError",
    "text as number": "is a text",
    "no number": "no number",
    "many": "no number",
    "infinite metric": "is inf",
    "undeclared": "'speed' is not declared",
    "missing": "'accuracy' is missing",
    "surrogate name": "is not declared",
    "unwritable params": "function",
    "nan params": "ValueError",
    "huge": "more than 256 KiB",
}


def test_exceptions_and_impossible_values_are_errors_in_words_and_keep_the_process(shared: Pool) -> None:
    num_restarts = shared.num_restarts
    for verdict, (text, reason) in zip(judge(shared, *RAISED), RAISED.items(), strict=True):
        assert verdict.status is ERROR, text
        assert reason in verdict.detail
        verdict.detail.encode()
    assert shared.num_restarts == num_restarts


def test_values_of_other_kinds_become_plain_ones(shared: Pool) -> None:
    boolean, silent, sets, metric, params = judge(
        shared, "boolean", "silent", "set in params", "surrogate metric", "surrogate params"
    )
    assert judgement(boolean).components == {"accuracy": 1.0}
    assert judgement(silent).components == {}
    assert judgement(silent).abstained == ("accuracy",)
    assert json.loads(judgement(sets).params_json) == {"labels": ["a", "b"]}
    assert judgement(metric).metrics == {"size ?": 1.0}
    assert json.loads(judgement(params).params_json) == {"note": "?"}


def test_abstaining_and_unscorable_are_no_zeros(shared: Pool) -> None:
    abstained, unscorable = judge(shared, "abstain", "unscorable")
    assert (judgement(abstained).components, judgement(abstained).abstained) == ({}, ("accuracy",))
    assert (unscorable.status, unscorable.detail, unscorable.judgements) == (UNSCORABLE, "the truth is bad", ())


@pytest.mark.parametrize("text", ["memory", "memory at once"])
def test_memory_used_up_is_a_timeout(shared: Pool, text: str) -> None:
    verdicts = judge(shared, "x", text, "x")
    assert statuses(verdicts) == [SCORED, TIMEOUT, SCORED]
    assert verdicts[1].detail == "no score within 256 MiB"
    assert verdicts[1].is_truth_fine


@pytest.mark.parametrize(
    "params_json",
    ["[1]", "{", "null", "[" * 100_000, '{"a": ' * 5000 + "1" + "}" * 5000, '{"unknown": 1}'],
    ids=["list", "cut off", "null", "deep list", "deep object", "unknown"],
)
def test_parameters_that_are_unusable_are_unscorable(shared: Pool, params_json: str) -> None:
    (verdict,) = verdicts_of(shared.submit([make_task("x", params_json=params_json)]))
    assert verdict.status is UNSCORABLE
    assert "the parameters are unusable" in verdict.detail


def test_parameters_are_checked_and_reported_with_their_defaults(shared: Pool) -> None:
    answer = '{"value": 0.25, "style": null}'
    tasks = [
        make_task(answer, verifier="strict@1", params_json=params_json)
        for params_json in [
            "{}",
            '{"scale": 2, "words": null}',
            '{"scale": "x"}',
            '{"words": ["a"]}',
            '{"words": ["a"]}',
        ]
    ]
    plain, scaled, wrong, *listed = verdicts_of(shared.submit(tasks))
    assert judgement(plain).components == {"value": 0.25}
    assert judgement(plain).abstained == ("style",)
    assert json.loads(judgement(scaled).params_json) == {"scale": 2.0, "words": None}
    assert judgement(scaled).components == {"value": 0.5}
    assert wrong.status is UNSCORABLE
    assert [judgement(verdict).components["value"] for verdict in listed] == [0.5, 0.5]


def test_a_hanging_truth_is_told_from_a_hanging_answer(shared: Pool) -> None:
    (answer,) = judge(shared, "hang")
    (truth,) = judge(shared, "x", truth="truth hangs")
    assert (answer.status, answer.is_truth_fine) == (TIMEOUT, True)
    assert (truth.status, truth.is_truth_fine) == (TIMEOUT, False)


def test_truths_are_parsed_once_for_a_group_also_bad_ones(shared: Pool) -> None:
    (before,) = judge(shared, "truths", truth="x")
    verdicts = judge(shared, *["x"] * 20, truth="truth is bad")
    assert statuses(verdicts) == [UNSCORABLE] * 20
    (after,) = judge(shared, "truths", truth="x")
    parsed_before, parsed_after = (judgement(v).metrics["num_truths_parsed"] for v in (before, after))
    assert parsed_after == parsed_before + 1


def test_a_group_is_judged_as_a_whole(shared: Pool) -> None:
    def group(*texts: str) -> Task:
        return Task(verifier="longest@1", rollouts=tuple(Rollout(text=text) for text in texts))

    fine, wrong = verdicts_of(shared.submit([group("a", "bbb", "", "ccc"), group("one for all", "a")]))
    assert [found.components.get("accuracy") for found in fine.judgements] == [0.0, 1.0, None, 1.0]
    assert fine.judgements[2].abstained == ("accuracy",)
    assert wrong.status is ERROR
    assert "1 values for 2 rollouts" in wrong.detail


@pytest.mark.parametrize(
    "nonsense",
    [
        "pickle",
        "long",
        "nan",
        "infinite",
        "out of range",
        "undeclared",
        "surrogate",
        "no object",
        "two",
        "status",
        "deep",
    ],
)
def test_what_a_rogue_child_sends_is_an_error(shared: Pool, nonsense: str) -> None:
    (verdict,) = judge(shared, "nonsense", truth=nonsense)
    assert verdict.status is ERROR
    assert "it sent" in verdict.detail
    assert statuses(judge(shared, "x")) == [SCORED]


def test_a_child_cannot_take_the_memory_away_that_the_pool_looks_at(shared: Pool) -> None:
    assert statuses(judge(shared, "truncate", "x")) == [TIMEOUT, SCORED]


def test_a_verifier_reaches_no_network_starts_no_process_and_writes_no_file(shared: Pool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        (call,) = judge(shared, "call home", truth=port)
        (allowed_call,) = judge(shared, "call home", truth=port, verifier="unruly@1")
    fork, write = judge(shared, "fork", "write")
    assert "unreachable" in call.detail
    assert allowed_call.status is SCORED
    assert "temporarily unavailable" in fork.detail
    assert "too large" in write.detail


@needs_root
def test_a_verifier_is_not_root(shared: Pool) -> None:
    for verifier in (MISBEHAVING, "unruly@1"):
        (verdict,) = judge(shared, "pid", verifier=verifier)
        assert judgement(verdict).metrics["uid"] == 65534.0


def test_what_a_verifier_started_dies_with_its_process(shared: Pool) -> None:
    (left,) = judge(shared, "leave a process", verifier="unruly@1")
    pid = judgement(left).metrics["pid"]
    assert is_alive(pid)
    (hang,) = judge(shared, "hang", verifier="unruly@1")
    assert hang.status is TIMEOUT
    wait_until_gone(pid)


def test_a_forked_copy_of_a_child_says_nothing_in_its_name(shared: Pool) -> None:
    verdicts = judge(shared, *["fork", "x"] * 5, verifier="unruly@1")
    assert statuses(verdicts) == [SCORED] * 10


def test_a_child_killed_while_idle_is_replaced_and_costs_nothing(shared: Pool) -> None:
    (before,) = judge(shared, "pid")
    os.kill(int(judgement(before).metrics["pid"]), signal.SIGKILL)
    time.sleep(0.2)
    verdicts = judge(shared, *["pid"] * 20)
    assert judgement(before).metrics["pid"] not in {judgement(verdict).metrics["pid"] for verdict in verdicts}


def test_the_deadline_is_for_one_rollout_in_cpu_time(shared: Pool) -> None:
    texts = [f"compute {CPU_SECONDS / 3}"] * 4 + [f"sleep {CPU_SECONDS * 1.5}"]
    assert statuses(judge(shared, *texts)) == [SCORED] * 5


def test_a_rollout_that_waits_for_ever_ends_at_its_wall_limit(shared: Pool) -> None:
    start = time.monotonic()
    (verdict,) = judge(shared, "sleep 600")
    assert (verdict.status, verdict.detail) == (TIMEOUT, "no score after 3 s")
    assert time.monotonic() - start < 10


def test_async_calls_wait_side_by_side_and_each_has_its_limit(shared: Pool) -> None:
    start = time.monotonic()
    texts = ["wait 600", "stubborn", *["wait 0.5"] * 100, "x", "raise"]
    verdicts = judge(shared, *texts, verifier="patient@1")
    assert statuses(verdicts) == [TIMEOUT, TIMEOUT, *[SCORED] * 101, ERROR]
    assert verdicts[0].detail == "no score within 2 s"
    assert all(verdict.is_truth_fine for verdict in verdicts)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("text", "status"), [("hang", TIMEOUT), ("crash", ERROR), ("exit", ERROR), ("memory", TIMEOUT)]
)
def test_async_calls_that_block_or_kill_their_loop_harm_no_others(shared: Pool, text: str, status: Status) -> None:
    verdicts = judge(shared, "wait 0.3", text, "wait 0.3", "x", verifier="patient@1")
    assert statuses(verdicts) == [SCORED, status, SCORED, SCORED]


def test_children_are_replaced_after_their_share_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pure_lane, "TASKS_PER_CHILD", 20)
    with running({MISBEHAVING: entry_point("misbehaving")}) as pool:
        pids = {judgement(verdict).metrics["pid"] for verdict in judge(pool, *["pid"] * 100)}
        assert pool.num_restarts == 0
    assert len(pids) >= 3


def test_two_versions_are_served_side_by_side_by_two_processes() -> None:
    served = {MISBEHAVING: entry_point("misbehaving"), "misbehaving@8": entry_point("misbehaving_again")}
    with running(served, 2) as pool:
        tasks = [make_task("pid", str(number), version) for number in range(50) for version in served]
        pids: dict[str, set[float]] = {version: set() for version in served}
        for task, verdict in zip(tasks, verdicts_of(pool.submit(tasks)), strict=True):
            pids[task.verifier].add(judgement(verdict).metrics["pid"])
    assert pids[MISBEHAVING].isdisjoint(pids["misbehaving@8"])


def test_a_later_edit_of_a_file_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "brief.py"
    path.write_text(
        "import os\nfrom tristream.verifiers import verifier\n"
        '@verifier(version="1", components=["accuracy"])\n'
        "def brief(rollout):\n    return os._exit(1) if rollout.text == 'crash' else 1.0\n"
    )
    with running({"brief@1": f"{path}:brief"}) as pool:
        path.write_text("raise RuntimeError('edited')")
        verdicts = judge(pool, "crash", "x", verifier="brief@1")
    assert statuses(verdicts) == [ERROR, SCORED]


def test_stop_fails_what_is_not_judged_and_leaves_no_process() -> None:
    with running({MISBEHAVING: entry_point("misbehaving"), "unruly@1": entry_point("unruly")}, cpu_seconds=60) as pool:
        pids = [judgement(verdict).metrics["pid"] for verdict in judge(pool, "pid")]
        pids += [judgement(verdict).metrics["pid"] for verdict in judge(pool, "leave a process", verifier="unruly@1")]
        futures = pool.submit([make_task(text) for text in ["x", "hang", "x", *["x"] * 40, "hang"]])
        assert futures[0].result(timeout=60).status is SCORED
        pool.stop()
        with pytest.raises(PoolError):
            futures[-1].result(timeout=60)
        with pytest.raises(PoolError):
            pool.submit([make_task("x")])
    for pid in pids:
        wait_until_gone(pid)


ABANDONED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_pool import Pool, entry_point, judge, judgement, make_task
served = {name: entry_point(name.partition("@")[0]) for name in ("misbehaving@7", "unruly@1")}
pool = Pool(served, num_processes=1, cpu_seconds=60)
pool.start()
pids = [judge(pool, "pid")[0], judge(pool, "leave a process", verifier="unruly@1")[0]]
pool.submit([make_task("hang")])
print(*(int(judgement(verdict).metrics["pid"]) for verdict in pids), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_pool_whose_process_is_killed_leaves_no_process() -> None:
    command = [sys.executable, "-c", ABANDONED, str(FILE.parent)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    pids = [float(word) for word in done.stdout.split()]
    assert len(pids) == 2
    for pid in pids:
        wait_until_gone(pid)


def test_a_pool_without_its_fork_server_fails_and_says_so() -> None:
    with running({MISBEHAVING: entry_point("misbehaving")}, cpu_seconds=60) as pool:
        (verdict,) = judge(pool, "pid")
        child = Path(f"/proc/{judgement(verdict).metrics['pid']:.0f}/stat").read_text()
        (future,) = pool.submit([make_task("hang")])
        os.kill(int(child.rpartition(")")[2].split()[1]), signal.SIGKILL)
        with pytest.raises(PoolError, match="is gone"):
            future.result(timeout=60)
        with pytest.raises(PoolError, match="is gone"):
            pool.submit([make_task("x")])
    wait_until_gone(judgement(verdict).metrics["pid"])


def test_a_verifier_that_nobody_serves_is_refused(shared: Pool) -> None:
    with pytest.raises(PoolError, match="does not serve math@99"):
        shared.submit([make_task("x", verifier="math@99")])


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("brief@1", "raise RuntimeError('no model file')", "no model file"),
        ("brief@1", "import os\nos._exit(3)", "died"),
        ("brief@2", None, "calls itself misbehaving@7"),
    ],
)
def test_a_verifier_that_cannot_be_loaded_fails_the_start(
    tmp_path: Path, name: str, code: str | None, words: str
) -> None:
    path = tmp_path / "brief.py"
    path.write_text(code or "")
    pool = Pool({name: f"{path}:brief" if code else entry_point("misbehaving")}, num_processes=2)
    with pytest.raises((UserError, PoolError), match=words):
        pool.start()
    pool.stop()
