import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import pytest

from tristream.config.parts import DispatcherSettings
from tristream.config.run_file import RunFile
from tristream.dispatcher.dispatcher import Dispatcher
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.runtime.status import PartReporter
from tristream.runtime.store import BlobStore
from tristream.wire.events import (
    DropReason,
    Fate,
    Group,
    Interval,
    Outcome,
    Part,
    PartState,
    PartStatus,
    PolicyVersion,
    Progress,
    Prompt,
    Split,
    TermMode,
    Weights,
)
from tristream.wire.topics import OUTCOMES, PARTS, POLICY, PROMPTS

MakeSettings = Callable[..., RunFile]
MakeRow = Callable[..., dict[str, Any]]
WriteRows = Callable[[str, list[dict[str, Any]]], Path]


def make_policy(version: int, settled: int = 0) -> PolicyVersion:
    return PolicyVersion(
        run="demo",
        weights=Weights(version=version, uri=f"weights/{version}", sha256="0"),
        total_steps=4,
        settled=(Interval(start=0, end=settled),) if settled else (),
        dropped=(),
        created_ns=1,
    )


def make_outcome(group: Group, fate: Fate) -> Outcome:
    drop_reason = DropReason.ZERO_VARIANCE if fate is Fate.DROPPED else None
    return Outcome(group=group, fate=fate, drop_reason=drop_reason, created_ns=1)


def make_maker(run_file: RunFile) -> PromptMaker:
    settings = DispatcherSettings.of(run_file)
    address = settings.store.address(settings.run.folder)
    return PromptMaker(settings, BlobStore(address, inline_limit_bytes=settings.rollout.inline_image_bytes))


class RunningDispatcher:
    """A dispatcher in a thread, and what it published."""

    def __init__(self, run_file: RunFile, bus: MemoryBus) -> None:
        self._prompts = bus.reader([PROMPTS])
        self._statuses = bus.reader([PARTS])
        self._statuses.read_to_end()
        self._seen: list[Prompt] = []
        self._status: PartStatus | None = None
        self._stop = threading.Event()
        reporter = PartReporter(run_file.run.folder, run_file.run.id, Part.DISPATCHER, min_interval_seconds=0.0)
        reporter.connect(lambda status: bus.publish(PARTS, status))
        dispatcher = Dispatcher(DispatcherSettings.of(run_file), bus, make_maker(run_file), reporter)
        self.thread = threading.Thread(target=dispatcher.run, args=(self._stop,), daemon=True)
        self.thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def wait_until_idle(self, waiting_for: str) -> None:
        """Wait until the dispatcher says what it waits for."""
        deadline = time.monotonic() + 10
        while (status := self.status()) is None or status.waiting_for != waiting_for:
            assert time.monotonic() < deadline, f"it is at {status}"
            time.sleep(0.01)

    def status(self) -> PartStatus | None:
        """The newest status."""
        for record in self._statuses.read_to_end():
            self._status = record.event
        return self._status

    def measure(self, name: str) -> float:
        status = self.status()
        assert status is not None
        return status.measures[name]

    def prompts(self, split: Split = Split.TRAIN) -> list[Prompt]:
        self._seen += [record.event for record in self._prompts.read_to_end()]
        chosen = [prompt for prompt in self._seen if prompt.group.split is split]
        return sorted(chosen, key=lambda prompt: (prompt.group.eval_step, prompt.group.number))


def numbers(prompts: Iterable[Prompt]) -> list[int]:
    return [prompt.group.number for prompt in prompts]


def test_prompts_are_held_back_by_the_staleness_bound(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    with RunningDispatcher(make_settings(), bus) as dispatcher:
        dispatcher.wait_until_idle("policy version from the learner")
        assert dispatcher.prompts() == []
        bus.publish(POLICY, make_policy(0))
        dispatcher.wait_until_idle("policy version 1 (staleness bound)")
        assert numbers(dispatcher.prompts()) == [0, 1, 2, 3]
        assert [prompt.progress.step for prompt in dispatcher.prompts()] == [1, 1, 2, 2]
        bus.publish(OUTCOMES, make_outcome(dispatcher.prompts()[1].group, Fate.DROPPED))
        bus.publish(POLICY, make_policy(1))
        dispatcher.wait_until_idle("policy version 2 (staleness bound)")
        time.sleep(0.3)
        assert numbers(dispatcher.prompts()) == [0, 1, 2, 3, 4, 5, 6]
        assert (dispatcher.measure("num_dispatched"), dispatcher.measure("num_dropped")) == (7, 1)
        assert (dispatcher.measure("version"), dispatcher.measure("num_trained")) == (1, 2)
        assert dispatcher.measure("total_steps") == 4


def test_a_prompt_carries_its_sample_and_how_to_judge_it(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    settings = make_settings(rollout={"inline_image_bytes": 0, "temperature": 0.7})
    with RunningDispatcher(settings, bus) as dispatcher:
        bus.publish(POLICY, make_policy(0))
        dispatcher.wait_until_idle("policy version 1 (staleness bound)")
        prompts = dispatcher.prompts()
    assert {prompt.group.source for prompt in prompts} == {"sums", "counts"}
    assert len({prompt.sampling.seed for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert prompt.group.size == 3
        assert prompt.pinned_weights is None
        assert (prompt.sampling.temperature, prompt.sampling.max_tokens) == (0.7, 6)
        (term,) = prompt.reward.terms
        assert (term.id, term.verifier, term.version, term.mode) == ("math", "math", "1", TermMode.ACTIVE)
        assert Path(prompt.images[0].uri).read_bytes()


def test_a_dispatcher_that_lost_its_state_goes_on_where_the_log_ends(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    settings = make_settings()
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(settings, bus) as first:
        first.wait_until_idle("policy version 1 (staleness bound)")
        before = first.prompts() + first.prompts(Split.EVAL)
    bus.publish(OUTCOMES, make_outcome(before[0].group, Fate.DROPPED))
    with RunningDispatcher(settings, bus) as second:
        second.wait_until_idle("policy version 1 (staleness bound)")
        assert numbers(second.prompts()) == [0, 1, 2, 3, 4]
        assert len(second.prompts(Split.EVAL)) == 3


def test_the_same_number_is_the_same_prompt_for_another_dispatcher(make_settings: MakeSettings) -> None:
    settings = make_settings()
    seen: list[list[tuple[object, ...]]] = []
    for _ in range(2):
        bus = MemoryBus("demo")
        bus.publish(POLICY, make_policy(0))
        with RunningDispatcher(settings, bus) as dispatcher:
            dispatcher.wait_until_idle("policy version 1 (staleness bound)")
            seen.append(
                [(p.group, p.messages, p.images, p.reward.ground_truth, p.sampling) for p in dispatcher.prompts()]
            )
    assert seen[0] == seen[1]


def test_on_a_new_broker_only_unsettled_prompts_are_dispatched(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(2, settled=4))
    with RunningDispatcher(make_settings(), bus) as dispatcher:
        dispatcher.wait_until_idle("policy version 3 (staleness bound)")
        assert numbers(dispatcher.prompts()) == [4, 5, 6, 7]
        assert [prompt.progress.step for prompt in dispatcher.prompts()] == [3, 3, 4, 4]
        assert {prompt.group.eval_step for prompt in dispatcher.prompts(Split.EVAL)} == {2}


def test_evaluation_rounds_are_greedy_and_pinned_to_their_version(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    with RunningDispatcher(make_settings(), bus) as dispatcher:
        for version in range(4):
            bus.publish(POLICY, make_policy(version))
        dispatcher.wait_until_idle("policy version 4 (staleness bound)")
        prompts = dispatcher.prompts(Split.EVAL)
    assert [(prompt.group.eval_step, prompt.group.number) for prompt in prompts] == [
        (step, number) for step in (0, 2) for number in range(3)
    ]
    for prompt in prompts:
        assert prompt.pinned_weights is not None
        assert prompt.pinned_weights.version == prompt.group.eval_step == prompt.progress.step
        assert (prompt.sampling.temperature, prompt.group.size) == (0.0, 1)
        assert prompt.reward.terms[0].params_json == '{"strict": true}'


def test_it_returns_when_the_last_version_is_evaluated(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    with RunningDispatcher(make_settings(), bus) as dispatcher:
        for version in range(5):
            bus.publish(POLICY, make_policy(version))
        dispatcher.wait_until_idle("3 evaluation answers of step 0")
        for prompt in dispatcher.prompts(Split.EVAL)[:-1]:
            bus.publish(OUTCOMES, make_outcome(prompt.group, Fate.EVALUATED))
        dispatcher.wait_until_idle("1 evaluation answers of step 4")
        bus.publish(OUTCOMES, make_outcome(dispatcher.prompts(Split.EVAL)[-1].group, Fate.EVALUATED))
        dispatcher.thread.join(10)
        assert not dispatcher.thread.is_alive()
        status = dispatcher.status()
        assert status is not None
        assert (status.part, status.state, status.waiting_for) == (Part.DISPATCHER, PartState.DONE, "")
        assert status.measures["num_rounds_answered"] == 3
        assert numbers(dispatcher.prompts()) == list(range(8))


def test_several_terms_of_one_verifier_are_told_apart(
    make_settings: MakeSettings, make_row: MakeRow, write_rows: WriteRows
) -> None:
    reward_model = make_row()["reward_model"]
    strict = {**reward_model, "verifier": "math", "accuracy_ratio": 0.5, "verifier_parm": {"strict": True}}
    row = make_row(reward_model=[reward_model, {**reward_model, "verifier": "counting"}, strict])
    source = {"name": "sums", "train": write_rows("several", [row])}
    prompt = make_maker(make_settings(sources=[source])).training_prompt(0, Progress(step=1, total_steps=4))
    assert [(term.id, term.verifier) for term in prompt.reward.terms] == [
        ("math", "math"),
        ("counting", "counting"),
        ("math-2", "math"),
    ]
    assert prompt.reward.terms[2].weights["accuracy"] == 0.5
    assert prompt.reward.terms[2].params_json == '{"strict": true}'
    assert PROMPTS.codec.decode(PROMPTS.codec.encode(prompt)) == prompt


@pytest.mark.parametrize("split", ["train", "eval"])
def test_a_verifier_that_does_not_exist_is_refused_at_start(
    make_settings: MakeSettings, make_row: MakeRow, write_rows: WriteRows, split: str
) -> None:
    good, bad = write_rows("good", [make_row()]), write_rows("bad", [make_row(0), make_row(1, verifier="orc")])
    source = {"name": "sums", "train": good, "eval": good, split: bad}
    with pytest.raises(UserError, match="use one of counting, detection, math, ocr") as caught:
        make_maker(make_settings(sources=[source]))
    assert caught.value.where == f"{bad} row 1"
