"""What people ask of a run is answered on the log, and prompts stay a function of it."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from running_dispatcher import RunningDispatcher, make_maker, make_outcome, make_policy, numbers, wait_for
from tristream.config.run_file import RunFile
from tristream.dispatcher.prompts_on_log import PromptsOnLog
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.status import PartReporter
from tristream.wire.events import (
    Command,
    CommandKind,
    DropReason,
    Fate,
    Part,
    PartState,
    PartStatus,
    Prompt,
    Split,
    VerifierLoad,
)
from tristream.wire.topics import COMMANDS, EPOCH_HEADER, OUTCOMES, PARTS, POLICY, PROMPTS
from tristream.wire.verifiers import BUILT_IN_VERSIONS

MakeSettings = Callable[..., RunFile]

ADD, PROMOTE, DEMOTE, RETIRE = CommandKind.ADD, CommandKind.PROMOTE, CommandKind.DEMOTE, CommandKind.RETIRE
MATH = BUILT_IN_VERSIONS["math"]


def ask(bus: MemoryBus, kind: CommandKind, name: str, identity: str = "", **changes: Any) -> Command:
    verifier, _, version = name.partition("@")
    if kind is ADD:
        changes = {"entry_point": "/x/brief.py:brief", "components": ("accuracy",), "code_sha256": version, **changes}
    if kind is PROMOTE:
        changes = {"weights": {"accuracy": 0.5}, **changes}
    request = Command(
        run="demo",
        id=identity or f"{kind}-{name}",
        kind=kind,
        verifier=verifier,
        version=version,
        created_ns=1,
        **changes,
    )
    bus.publish(COMMANDS, request)
    return request


def answers(bus: MemoryBus) -> list[Command]:
    records = bus.reader([COMMANDS]).read_to_end()
    return [record.event for record in records if EPOCH_HEADER in record.headers]


def wait_for_answer(bus: MemoryBus, request: Command) -> Command:
    wait_for(lambda: any(answer.id.startswith(f"{request.id}/from/") for answer in answers(bus)))
    return next(answer for answer in answers(bus) if answer.id.startswith(f"{request.id}/from/"))


def verifiers(prompts: Sequence[Prompt]) -> list[list[str]]:
    return [[f"{term.verifier}@{term.version}" for term in prompt.reward.terms] for prompt in prompts]


def bare(prompt: Prompt) -> bytes:
    """The bytes of a prompt, but for when it was made."""
    return PROMPTS.codec.encode(replace(prompt, created_ns=0))


def test_what_is_asked_is_answered_with_the_prompt_from_which_it_holds(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(make_settings(), bus) as dispatcher:
        dispatcher.wait_until_idle("policy version 1")
        added = wait_for_answer(bus, ask(bus, ADD, "brief@1", params_json='{"a": 1}', sources=("sums",)))
        assert (added.refusal, added.entry_point, added.components) == ("", "/x/brief.py:brief", ("accuracy",))
        promoted = wait_for_answer(bus, ask(bus, PROMOTE, "brief@1", sources=("sums",)))
        assert (promoted.from_number, promoted.from_version, promoted.refusal) == (4, 1, "")
        bus.publish(POLICY, make_policy(1))
        bus.publish(POLICY, make_policy(2))
        dispatcher.wait_until_idle("policy version 3")
        for prompt in dispatcher.prompts():
            has_it = prompt.group.number >= 4 and prompt.group.source == "sums"
            assert verifiers([prompt]) == [[f"math@{MATH}", *(["brief@1"] if has_it else [])]]
        rounds = dispatcher.prompts(Split.EVAL)
        assert [prompt.group.eval_step for prompt in rounds] == [0, 0, 0, 2, 2, 2]
        assert verifiers(rounds) == [[f"math@{MATH}"]] * 3 + [[f"math@{MATH}", "brief@1"]] * 3
        wait_for(lambda: dispatcher.measure("needs/sums/brief@1") == 1.0)
        retired = wait_for_answer(bus, ask(bus, RETIRE, "brief@1"))
        assert (retired.from_number, retired.from_version) == (8, 3)
        wait_for(lambda: dispatcher.measure("needs/sums/brief@1") == 0.0)


def test_what_cannot_be_done_is_refused_on_the_log_and_holds_nowhere(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(make_settings(), bus) as dispatcher:
        dispatcher.wait_until_idle("policy version 1")
        refused = wait_for_answer(bus, ask(bus, PROMOTE, "brief@1"))
        assert refused.refusal.startswith("it has no brief@1; add it first")
        assert wait_for_answer(bus, ask(bus, RETIRE, f"math@{MATH}")).refusal.startswith(
            "source sums would have nothing"
        )
        pause = Command(run="demo", id="p", kind=CommandKind.PAUSE_SOURCE, sources=("nowhere",), created_ns=1)
        bus.publish(COMMANDS, pause)
        assert wait_for_answer(bus, pause).refusal == "it has no source 'nowhere'; its sources are sums, counts"
        bus.publish(POLICY, make_policy(1))
        dispatcher.wait_until_idle("policy version 2")
        assert verifiers(dispatcher.prompts()) == [[f"math@{MATH}"]] * 6


def test_a_request_is_answered_once_by_whoever_dispatches(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    request = ask(bus, ADD, "brief@1")
    for _ in range(3):
        with RunningDispatcher(make_settings(), bus) as dispatcher:
            dispatcher.wait_until_idle("policy version 1")
            wait_for_answer(bus, request)
    assert len(answers(bus)) == 1


def test_a_shadow_changes_no_byte_of_any_prompt(make_settings: MakeSettings) -> None:
    seen = []
    for has_shadow in (False, True):
        bus = MemoryBus("demo")
        bus.publish(POLICY, make_policy(0))
        with RunningDispatcher(make_settings(), bus) as dispatcher:
            dispatcher.wait_until_idle("policy version 1")
            if has_shadow:
                wait_for_answer(bus, ask(bus, ADD, "brief@1"))
            for version in range(1, 4):
                bus.publish(POLICY, make_policy(version))
            dispatcher.wait_until_idle("policy version 4")
            seen.append([bare(p) for p in (*dispatcher.prompts(), *dispatcher.prompts(Split.EVAL))])
    assert seen[0] == seen[1]


def test_on_a_broker_that_lost_the_commands_verifiers_hold_as_they_did(make_settings: MakeSettings) -> None:
    run_file = make_settings(bus={"durable": False})
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(run_file, bus) as first:
        first.wait_until_idle("policy version 1")
        wait_for_answer(bus, ask(bus, ADD, "brief@1"))
        wait_for_answer(bus, ask(bus, PROMOTE, "nothing@1"))
        wait_for_answer(bus, ask(bus, PROMOTE, "brief@1"))
        bus.publish(POLICY, make_policy(1))
        first.wait_until_idle("policy version 2")
        before = [bare(prompt) for prompt in first.prompts()]
    anew = MemoryBus("demo")
    anew.publish(POLICY, make_policy(0))
    with RunningDispatcher(run_file, anew) as second:
        second.wait_until_idle("policy version 1")
        anew.publish(POLICY, make_policy(1))
        second.wait_until_idle("policy version 2")
        assert [bare(prompt) for prompt in second.prompts()] == before
    assert [answer.kind for answer in answers(anew)] == [ADD, PROMOTE]
    assert (run_file.run.folder.path / "commands.txt").exists()


STEPS = ("add", "promote", "upgrade", "demote", "retire", "drop", "version", "version")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=2, max_size=7),
    lives=st.lists(st.booleans(), min_size=7, max_size=7),
)
def test_however_often_the_dispatcher_dies_the_prompts_are_those_of_the_commands_on_the_log(
    make_settings: MakeSettings, steps: list[str], lives: list[bool]
) -> None:
    bus, run_file, version = MemoryBus("demo"), make_settings(run={"steps": 9}), 0
    bus.publish(POLICY, make_policy(0))
    dispatcher = RunningDispatcher(run_file, bus)
    for place, step in enumerate(steps):
        dispatcher.wait_until_idle(f"policy version {version + 1}")
        requests = {
            "add": (ADD, "brief@1"),
            "promote": (PROMOTE, "brief@1"),
            "upgrade": (PROMOTE, "length@1"),
            "demote": (DEMOTE, f"math@{MATH}"),
            "retire": (RETIRE, "length@1"),
        }
        if step in requests:
            wait_for_answer(bus, ask(bus, *requests[step], identity=f"{step}-{place}"))
        elif step == "drop":
            bus.publish(OUTCOMES, make_outcome(dispatcher.prompts()[-1].group, Fate.DROPPED, DropReason.STALE))
        else:
            version += 1
            bus.publish(POLICY, make_policy(version))
        if lives[place]:
            dispatcher.__exit__()
            assert dispatcher.error is None
            dispatcher = RunningDispatcher(run_file, bus)
    dispatcher.wait_until_idle(f"policy version {version + 1}")
    dispatcher.__exit__()
    maker = make_maker(run_file)
    for answer in answers(bus):
        if not answer.refusal:
            maker.plan.observe(answer)
    prompts: list[Prompt] = [record.event for record in bus.reader([PROMPTS]).read_to_end()]
    training = [prompt for prompt in prompts if prompt.group.split is Split.TRAIN]
    assert sorted(numbers(training)) == list(range(len(training)))
    on_log = PromptsOnLog(maker.run_fingerprint, lambda _number: False)
    for prompt in prompts:
        on_log.check(prompt)
        if prompt.pinned_weights is None:
            again = maker.training_prompt(prompt.group.number, prompt.progress)
        else:
            again = maker.evaluation_prompt(prompt.group.number, prompt.pinned_weights, prompt.group.eval_attempt)
        assert bare(again) == bare(prompt)


class Worker:
    """A verifier worker that does nothing but say that it serves."""

    def __init__(self, bus: MemoryBus, run_file: RunFile, *names: str, instance: str = "host-1") -> None:
        self._reporter = PartReporter(
            run_file.run.folder, "demo", Part.VERIFIER, beat_seconds=0.05, instance=instance, min_interval_seconds=0.0
        )
        self._reporter.connect(lambda status: bus.publish(PARTS, status))
        pairs = [name.split("@") for name in names]
        self._loads = tuple(VerifierLoad(verifier=verifier, version=v, num_scored=0) for verifier, v in pairs)

    def start(self) -> None:
        self._reporter.report(PartState.READY, verifiers=self._loads)
        self._reporter.start_beating()

    def stop(self, state: PartState = PartState.DONE) -> None:
        self._reporter.stop_beating()
        self._reporter.report(state)


def tell_open(bus: MemoryBus, created_ns: int, **num_open: int) -> None:
    measures = {f"open/{source}": float(number) for source, number in num_open.items()}
    bus.publish(
        PARTS,
        PartStatus(
            run="demo", part=Part.ASSEMBLER, instance="host-2", state=PartState.READY, since_ns=1, started_ns=1,
            created_ns=created_ns, measures=measures,
        ),
    )  # fmt: skip


@pytest.fixture
def worker(make_settings: MakeSettings) -> Callable[..., Worker]:
    return lambda bus, *names, **changes: Worker(bus, make_settings(), *names, **changes)


def test_a_source_whose_verifier_nobody_serves_waits_and_the_others_go_on(
    make_settings: MakeSettings, worker: Callable[..., Worker]
) -> None:
    bus, run_file = MemoryBus("demo"), make_settings(run={"steps": 40})
    rows, brief = worker(bus, f"math@{MATH}", instance="host-1"), worker(bus, "brief@1", instance="host-3")
    rows.start()
    brief.start()
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(run_file, bus, patience_seconds=1.0) as dispatcher:
        dispatcher.wait_until_idle("policy version 1")
        wait_for_answer(bus, ask(bus, ADD, "brief@1"))
        promoted = wait_for_answer(bus, ask(bus, PROMOTE, "brief@1", sources=("sums",)))
        bus.publish(POLICY, make_policy(1))
        dispatcher.wait_until_idle("policy version 2")
        brief.stop()
        words = "policy version 2 (staleness bound); source sums waits for brief@1, which no worker serves"
        dispatcher.wait_until_idle(words)
        pause = answers(bus)[-1]
        assert (pause.kind, pause.sources) == (CommandKind.PAUSE_SOURCE, ("sums",))
        assert pause.reason == "waits for brief@1, which no worker serves"
        stuck = [p for p in dispatcher.prompts() if p.group.source == "sums" and p.group.number >= promoted.from_number]
        assert stuck
        num_before = len(dispatcher.prompts())
        tell_open(bus, 10**19 // 2, sums=len(stuck), counts=0)
        wait_for(lambda: len(dispatcher.prompts()) == num_before + len(stuck))
        bus.publish(POLICY, make_policy(2))
        wait_for(lambda: len(dispatcher.prompts()) == num_before + len(stuck) + 2)
        late = [p.group.source for p in dispatcher.prompts() if p.group.number >= pause.from_number]
        assert set(late) == {"counts"}
    with RunningDispatcher(run_file, bus, patience_seconds=1.0) as second:
        second.wait_until_idle("policy version 3 (staleness bound); source sums waits for brief@1")
        assert answers(bus)[-1] == pause
        brief.start()
        wait_for(lambda: answers(bus)[-1].kind is CommandKind.RESUME_SOURCE)
        assert answers(bus)[-1].reason == "it is served again; it waited for brief@1, which no worker serves"
        for version in range(3, 7):
            bus.publish(POLICY, make_policy(version))
        second.wait_until_idle("policy version 7 (staleness bound)")
        late = [p.group.source for p in second.prompts() if p.group.number >= answers(bus)[-1].from_number]
        assert "sums" in late
    brief.stop()
    rows.stop()


def test_what_a_person_paused_stays_so_when_its_verifier_is_served_again(
    make_settings: MakeSettings, worker: Callable[..., Worker]
) -> None:
    bus = MemoryBus("demo")
    rows = worker(bus, f"math@{MATH}")
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(make_settings(), bus, patience_seconds=0.5) as dispatcher:
        dispatcher.wait_until_idle(f"policy version 1 (staleness bound); source sums waits for math@{MATH}")
        bus.publish(
            COMMANDS, Command(run="demo", id="p", kind=CommandKind.PAUSE_SOURCE, sources=("sums",), created_ns=1)
        )
        wait_for(lambda: any(answer.id.startswith("p/from/") for answer in answers(bus)))
        rows.start()
        wait_for(lambda: answers(bus)[-1].kind is CommandKind.RESUME_SOURCE)
        assert answers(bus)[-1].sources == ("counts",)
        threading.Event().wait(0.5)
        assert dispatcher.measure("paused/sums") == 1.0
        bus.publish(
            COMMANDS, Command(run="demo", id="r", kind=CommandKind.RESUME_SOURCE, sources=("sums",), created_ns=1)
        )
        wait_for(lambda: dispatcher.measure("paused/sums") == 0.0)
    rows.stop()


def test_on_a_broker_that_lost_its_log_a_source_that_waited_waits_until_its_verifier_is_seen(
    make_settings: MakeSettings, worker: Callable[..., Worker]
) -> None:
    run_file, bus = make_settings(bus={"durable": False}), MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(run_file, bus, patience_seconds=0.3) as first:
        first.wait_until_idle("policy version 1 (staleness bound); source sums waits for")
    anew = MemoryBus("demo")
    with RunningDispatcher(run_file, anew, patience_seconds=0.3) as second:
        second.wait_until_idle("policy version from the learner; source sums waits for")
        threading.Event().wait(0.7)
        assert {answer.kind for answer in answers(anew)} == {CommandKind.PAUSE_SOURCE}
        rows = worker(anew, f"math@{MATH}")
        rows.start()
        wait_for(lambda: [a.kind for a in answers(anew)][-2:] == [CommandKind.RESUME_SOURCE] * 2)
    rows.stop()
