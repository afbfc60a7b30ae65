"""The pool against verifiers that hang, crash and raise; nothing is mocked, processes die."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from builders import make_task
from misbehaving_verifiers import MISBEHAVING, UnstartableVerifier

from tristream.verifiers.registry import VERIFIERS
from tristream.verifiers.service import pool as pool_module
from tristream.verifiers.service.child import Task, Verdict
from tristream.verifiers.service.pool import Pool, PoolError
from tristream.wire.events import Status

DEADLINE_SECONDS = 0.5


@pytest.fixture(params=[1, 2])
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    pool = Pool({**VERIFIERS, **MISBEHAVING}, num_processes=request.param, deadline_seconds=DEADLINE_SECONDS)
    pool.start()
    yield pool
    pool.stop()


def task(text: str, verifier: str = "misbehaving") -> Task:
    return make_task(verifier, text, "x", step=5)


def judge(pool: Pool, *texts: str) -> list[Verdict]:
    return [future.result(timeout=30) for future in pool.submit([task(text) for text in texts])]


def test_scores_come_back_in_order_with_their_parameters(pool: Pool) -> None:
    verdicts = judge(pool, *["x", "y"] * 50)
    assert [verdict.components["accuracy"] for verdict in verdicts] == [1.0, 0.0] * 50
    assert verdicts[0].params_json == '{"step": 5}'
    assert pool.num_restarts == 0


def test_only_the_rollout_that_hangs_times_out(pool: Pool) -> None:
    start = time.monotonic()
    verdicts = judge(pool, "x", "hang", *["x"] * 30)
    statuses = [verdict.status for verdict in verdicts]
    assert statuses == [Status.SCORED, Status.TIMEOUT, *[Status.SCORED] * 30]
    assert verdicts[1].components == {}
    assert DEADLINE_SECONDS <= time.monotonic() - start < DEADLINE_SECONDS + 5
    assert pool.num_restarts == 1


def test_only_the_rollout_that_crashes_its_process_is_an_error(pool: Pool) -> None:
    verdicts = judge(pool, "x", "crash", "x", "exit", "x")
    scored, error = Status.SCORED, Status.ERROR
    assert [verdict.status for verdict in verdicts] == [scored, error, scored, error, scored]
    assert "exit code 7" in verdicts[1].detail
    assert pool.num_restarts == 2


def test_exceptions_are_errors_with_their_reason_and_keep_the_process(pool: Pool) -> None:
    verdicts = judge(pool, "raise", "nan", "recurse", "x")
    assert [verdict.status for verdict in verdicts] == [Status.ERROR, Status.ERROR, Status.ERROR, Status.SCORED]
    assert verdicts[0].detail.startswith("RuntimeError: no such luck")
    assert "component 'accuracy' is nan" in verdicts[1].detail
    assert all(verdict.components == {} for verdict in verdicts[:3])
    assert pool.num_restarts == 0


def test_scores_that_no_record_can_hold_are_errors_and_keep_the_process(pool: Pool) -> None:
    texts = ["infinite metric", "text as number", "surrogate name", "unwritable params", "nan params", "mute"]
    verdicts = judge(pool, *texts, "surrogate detail", "x")
    assert [verdict.status for verdict in verdicts] == [Status.ERROR] * 7 + [Status.SCORED]
    for verdict, reason in zip(
        verdicts,
        ["is inf", "ValueError", "is called", "TypeError", "ValueError", "without a text", "a ? surrogate"],
        strict=False,
    ):
        assert reason in verdict.detail
        assert verdict.detail.encode() == verdict.detail.encode(errors="replace")
    assert pool.num_restarts == 0


@pytest.mark.parametrize("params_json", ["[1]", "{", "null", "[" * 100_000, '{"a": ' * 5000 + "1" + "}" * 5000])
def test_parameters_that_are_no_object_are_unscorable(pool: Pool, params_json: str) -> None:
    (future,) = pool.submit([make_task("misbehaving", "x", "x", params_json=params_json)])
    verdict = future.result(timeout=30)
    assert verdict.status is Status.UNSCORABLE
    assert "the parameters are unusable" in verdict.detail


def test_unscorable_is_not_a_zero(pool: Pool) -> None:
    (verdict,) = judge(pool, "unscorable")
    assert (verdict.status, verdict.detail, verdict.components) == (Status.UNSCORABLE, "the truth is bad", {})


def test_the_deadline_is_for_one_rollout_not_for_a_batch(pool: Pool) -> None:
    verdicts = judge(pool, *[f"sleep {DEADLINE_SECONDS / 3}"] * 8)
    assert {verdict.status for verdict in verdicts} == {Status.SCORED}


def test_a_child_killed_while_idle_is_replaced_and_costs_nothing(pool: Pool) -> None:
    (before,) = judge(pool, "pid")
    os.kill(int(before.metrics["pid"]), signal.SIGKILL)
    time.sleep(0.2)
    assert {verdict.status for verdict in judge(pool, *["x"] * 10)} == {Status.SCORED}
    assert {verdict.metrics["pid"] for verdict in judge(pool, *["pid"] * 40)}.isdisjoint({before.metrics["pid"]})


def test_many_hangs_in_a_row_are_survived(pool: Pool) -> None:
    verdicts = judge(pool, "hang", "hang", "crash", "hang", "x")
    assert [verdict.status for verdict in verdicts] == [
        Status.TIMEOUT,
        Status.TIMEOUT,
        Status.ERROR,
        Status.TIMEOUT,
        Status.SCORED,
    ]


def test_children_are_replaced_after_their_share_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "TASKS_PER_CHILD", 20)
    pool = Pool(MISBEHAVING, num_processes=1, deadline_seconds=5)
    pool.start()
    pids = {verdict.metrics["pid"] for verdict in judge(pool, *["pid"] * 100)}
    pool.stop()
    assert len(pids) >= 3
    assert pool.num_restarts == 0


def test_stop_fails_what_is_not_judged_and_leaves_no_process() -> None:
    pool = Pool(MISBEHAVING, num_processes=1, deadline_seconds=60)
    pool.start()
    (pid,) = [int(verdict.metrics["pid"]) for verdict in judge(pool, "pid")]
    futures = pool.submit([task("x"), task("hang"), task("x"), *[task("x")] * 40])
    assert futures[0].result(timeout=10).status is Status.SCORED
    pool.stop()
    for future in futures[1:]:
        with pytest.raises(PoolError):
            future.result(timeout=10)
    with pytest.raises(PoolError):
        pool.submit([task("x")])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_verifier_that_cannot_be_made_fails_the_start() -> None:
    pool = Pool({"unstartable": UnstartableVerifier}, num_processes=2, deadline_seconds=1)
    with pytest.raises(PoolError):
        pool.start()
    pool.stop()


def test_math_that_never_ends_is_killed(pool: Pool) -> None:
    tower = make_task("math", r"\boxed{9^{9^{9^{9}}}}", r"\boxed{3^{3^{3^{3}}}}")
    simple = make_task("math", r"\boxed{4}", "4")
    verdicts = [future.result(timeout=30) for future in pool.submit([tower, simple])]
    assert verdicts[0].status in (Status.TIMEOUT, Status.ERROR, Status.SCORED)
    assert verdicts[0].components.get("accuracy", 0.0) == 0.0
    assert verdicts[1].components["accuracy"] == 1.0
