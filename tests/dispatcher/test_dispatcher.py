import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from tristream.config.run_file import RunFile
from tristream.dispatcher.dispatcher import Dispatcher
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.status import StatusFile, read_status
from tristream.runtime.store import BlobStore
from tristream.wire.events import Fate, Group, Interval, Outcome, PolicyVersion, Prompt, Split, Weights
from tristream.wire.topics import OUTCOMES, POLICY, PROMPTS

MakeSettings = Callable[..., RunFile]


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
    return Outcome(group=group, fate=fate, reason="zero_variance" if fate is Fate.DROPPED else "", created_ns=1)


class RunningDispatcher:
    """A dispatcher in a thread, and what it published."""

    def __init__(self, settings: RunFile, bus: MemoryBus) -> None:
        self._settings = settings
        self._reader = bus.reader([PROMPTS])
        self._seen: list[Prompt] = []
        self._stop = threading.Event()
        blobs = BlobStore(settings.store_uri, inline_limit_bytes=settings.rollout.inline_image_bytes)
        (settings.status_folder / "dispatcher.json").unlink(missing_ok=True)
        status = StatusFile(settings.status_folder, "dispatcher", min_interval_seconds=0.0)
        dispatcher = Dispatcher(settings, bus, PromptMaker(settings, blobs), status)
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
        while self.status().get("waiting_for") != waiting_for:
            assert time.monotonic() < deadline, f"it waits for '{self.status().get('waiting_for')}'"
            time.sleep(0.01)

    def status(self) -> dict[str, Any]:
        return read_status(self._settings.status_folder, "dispatcher") or {}

    def prompts(self, split: Split = Split.TRAIN) -> list[Prompt]:
        self._seen += [record.event for record in self._reader.read_to_end()]
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
        assert dispatcher.status()["dropped"] == 1


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
        assert [term.verifier for term in prompt.reward.terms] == ["math"]
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
        assert dispatcher.status()["state"] == "done"
        assert numbers(dispatcher.prompts()) == list(range(8))
