import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from running_dispatcher import RunningDispatcher, make_maker, make_outcome, make_policy, numbers, wait_for
from tristream.config.run_file import RunFile
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.runtime.lease import SupersededError
from tristream.wire.events import (
    Command,
    CommandKind,
    DropReason,
    Fate,
    LogPosition,
    Part,
    PartitionOffset,
    PartState,
    Progress,
    Split,
    TermMode,
)
from tristream.wire.topics import COMMANDS, DEAD_LETTERS, OUTCOMES, PARTS, POLICY, PROMPTS
from tristream.wire.verifiers import BUILT_IN_VERSIONS

MakeSettings = Callable[..., RunFile]
MakeRow = Callable[..., dict[str, Any]]
WriteRows = Callable[[str, list[dict[str, Any]]], Path]


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
        wait_for(lambda: dispatcher.measure("num_dispatched") == 7)
        assert dispatcher.measure("num_dropped") == 1
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
        assert (term.id, term.verifier, term.version, term.mode) == (
            "math",
            "math",
            BUILT_IN_VERSIONS["math"],
            TermMode.ACTIVE,
        )
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
        assert prompt.reward.terms[0].params_json == '{"answer_in": "boxed"}'


def test_it_returns_when_the_last_version_is_durable_and_evaluated(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    with RunningDispatcher(make_settings(), bus) as dispatcher:
        for version in range(5):
            bus.publish(POLICY, make_policy(version))
        dispatcher.wait_until_idle("3 evaluation answers of step 0")
        for prompt in dispatcher.prompts(Split.EVAL)[:-1]:
            bus.publish(OUTCOMES, make_outcome(prompt.group, Fate.EVALUATED))
        dispatcher.wait_until_idle("1 evaluation answers of step 4")
        bus.publish(OUTCOMES, make_outcome(dispatcher.prompts(Split.EVAL)[-1].group, Fate.EVALUATED))
        dispatcher.wait_until_idle("the checkpoint of step 4")
        bus.publish(POLICY, make_policy(4, settled=8, durable=4))
        dispatcher.wait_until_ended()
        status = dispatcher.status()
        assert status is not None
        assert (status.part, status.state, status.waiting_for) == (Part.DISPATCHER, PartState.DONE, "")
        assert status.measures["num_rounds_answered"] == 3
        assert numbers(dispatcher.prompts()) == list(range(8))


def test_a_learner_that_went_back_after_the_last_version_gets_its_prompts(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    with RunningDispatcher(make_settings(evaluation={"every": 100}), bus) as dispatcher:
        for version in range(5):
            bus.publish(POLICY, make_policy(version))
        dispatcher.wait_until_idle("3 evaluation answers of step 0")
        bus.publish(POLICY, make_policy(4, durable=2, settled=4))
        for prompt in dispatcher.prompts(Split.EVAL):
            bus.publish(OUTCOMES, make_outcome(prompt.group, Fate.EVALUATED))
        dispatcher.wait_until_idle("the checkpoint of step 4")
        bus.publish(POLICY, make_policy(2, durable=2, settled=4))
        bus.publish(OUTCOMES, make_outcome(dispatcher.prompts()[7].group, Fate.DROPPED, DropReason.STALE))
        dispatcher.wait_until_idle("policy version 3 (staleness bound)")
        wait_for(lambda: numbers(dispatcher.prompts()) == list(range(9)))
        bus.publish(POLICY, make_policy(4, durable=2, settled=4, sha256="anew"))
        dispatcher.wait_until_idle("3 evaluation answers of step 4")
        again = [prompt for prompt in dispatcher.prompts(Split.EVAL) if prompt.group.eval_attempt == 1]
        assert [prompt.group.id for prompt in again] == [f"demo/eval-4.1/{number}" for number in range(3)]
        assert all(prompt.pinned_weights is not None and prompt.pinned_weights.sha256 == "anew" for prompt in again)


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


def test_rows_that_are_left_out_are_named_in_dead_letters(
    make_settings: MakeSettings, make_row: MakeRow, write_rows: WriteRows
) -> None:
    rows = [make_row(number, accuracy_ratio=float("nan") if number == 2 else 1.0) for number in range(4)]
    source = {"name": "sums", "train": write_rows("some-bad", rows), "on_bad_row": "skip"}
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(make_settings(sources=[source]), bus) as dispatcher:
        dispatcher.wait_until_idle("policy version 1")
        assert "row-2" not in {prompt.group.sample_id for prompt in dispatcher.prompts()}
    (letter,) = [record.event for record in bus.reader([DEAD_LETTERS]).read_to_end()]
    assert (letter.topic, letter.partition, letter.offset) == ("some-bad.parquet", 0, 2)
    assert (letter.part, letter.key, letter.error) == ("dispatcher", b"sums", "reward_model.accuracy_ratio is nan")


def test_rows_that_a_source_refuses_end_it_at_start(
    make_settings: MakeSettings, make_row: MakeRow, write_rows: WriteRows
) -> None:
    source = {"name": "sums", "train": write_rows("bad", [make_row(0), make_row(1, verifier="orc")])}
    with pytest.raises(UserError, match=r"bad\.parquet row 1: asks for the verifier 'orc'"):
        make_maker(make_settings(sources=[source]))


@pytest.mark.parametrize(
    ("changes", "is_the_same"),
    [
        ({"run": {"steps": 9}, "rollout": {"max_staleness": 3}, "learner": {"learning_rate": 0.5}}, True),
        ({"run": {"seed": 8}}, False),
        ({"rollout": {"temperature": 0.5}}, False),
        ({"rollout": {"group_size": 4}}, False),
        ({"evaluation": {"max_tokens": 9}}, False),
    ],
)
def test_prompts_of_another_run_file_on_the_log_are_refused(
    make_settings: MakeSettings, changes: dict[str, Any], is_the_same: bool
) -> None:
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    settings = make_settings()
    with RunningDispatcher(settings, bus) as first:
        first.wait_until_idle("policy version 1")
    sections = {name: {**settings.model_dump()[name], **section} for name, section in changes.items()}
    changed = RunFile.model_validate({**settings.model_dump(), **sections})
    with RunningDispatcher(changed, bus) as second:
        if is_the_same:
            second.wait_until_idle("policy version 1")
        else:
            second.wait_until_ended()
    assert (second.error is None) is is_the_same
    if second.error is not None:
        assert isinstance(second.error, UserError)
        assert "made from another run file" in str(second.error)
        assert "start it with the same run file and data files, or give another run.id" in str(second.error)


def test_prompts_of_other_data_on_the_log_are_refused(
    make_settings: MakeSettings, make_row: MakeRow, write_rows: WriteRows
) -> None:
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    settings = make_settings()
    with RunningDispatcher(settings, bus) as first:
        first.wait_until_idle("policy version 1")
    write_rows("sums", [make_row(number + 1) for number in range(5)])
    with RunningDispatcher(settings, bus) as second:
        second.wait_until_ended()
    assert isinstance(second.error, UserError)


def test_two_different_prompts_of_one_number_on_the_log_are_refused(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(make_settings(), bus) as first:
        first.wait_until_idle("policy version 1")
        prompt = first.prompts()[0]
    newest = bus.as_part("intruder")
    newest.take_over([PROMPTS], 10)
    newest.publish(PROMPTS, replace(prompt, digest="f00d"))
    with RunningDispatcher(make_settings(), bus) as second:
        second.wait_until_ended()
    assert isinstance(second.error, UserError)
    assert "two different prompts on its log have the number of demo/0" in str(second.error)


def test_the_digest_is_of_the_question_and_not_of_the_moment(make_settings: MakeSettings) -> None:
    inline, by_reference = make_maker(make_settings()), make_maker(make_settings(rollout={"inline_image_bytes": 0}))
    first = inline.training_prompt(3, Progress(step=1, total_steps=4))
    second = by_reference.training_prompt(3, Progress(step=2, total_steps=9))
    assert first.images != second.images
    assert (first.digest, first.run_fingerprint) == (second.digest, second.run_fingerprint)
    assert len({inline.training_prompt(n, Progress(step=1, total_steps=4)).digest for n in range(20)}) == 20
    weights = make_policy(0).weights
    rounds = [inline.evaluation_prompt(0, weights), inline.evaluation_prompt(0, replace(weights, sha256="1"))]
    assert rounds[0].digest != rounds[1].digest


def test_it_reads_the_log_from_where_the_ledger_says(make_settings: MakeSettings) -> None:
    """Records before that are not even decoded: here, such as would end the dispatcher."""
    bus = MemoryBus("demo", num_partitions=1)
    for number in range(3):
        bus.publish_raw(PROMPTS, f"demo/{number}", b"", {})
    position = LogPosition(
        log_id=bus.log_id(), offsets=(PartitionOffset(topic=PROMPTS.name, partition=0, offset=3),), evaluated=()
    )
    bus.publish(POLICY, make_policy(2, settled=4, durable=2, position=position))
    with RunningDispatcher(make_settings(), bus) as dispatcher:
        dispatcher.wait_until_idle("policy version 3")
        assert list(bus.reader([DEAD_LETTERS]).read_to_end()) == []
        assert dispatcher.measure("num_dispatched") == 8


def test_a_second_dispatcher_is_refused_and_the_first_goes_on(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(make_settings(), bus, instance="elsewhere-1") as first:
        first.wait_until_idle("policy version 1")
        with RunningDispatcher(make_settings(), bus, instance="elsewhere-2") as second:
            second.wait_until_ended()
        assert isinstance(second.error, UserError)
        bus.publish(POLICY, make_policy(1))
        wait_for(lambda: numbers(first.prompts()) == list(range(6)))


def test_a_dispatcher_that_was_superseded_ends_and_what_it_published_is_void(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(make_settings(), bus, instance="elsewhere-1") as first:
        first.wait_until_idle("policy version 1")
        status = first.status()
        assert status is not None
        successor = replace(status, instance="elsewhere-2", epoch=status.epoch + 1)
        for created_ns in (1, 2):
            bus.publish(PARTS, replace(successor, created_ns=created_ns))
        first.wait_until_ended()
    assert isinstance(first.error, SupersededError)


def drop_all(bus: MemoryBus, dispatcher: RunningDispatcher, source: str, answered: set[int]) -> None:
    for prompt in dispatcher.prompts():
        if prompt.group.source == source and prompt.group.number not in answered:
            answered.add(prompt.group.number)
            bus.publish(OUTCOMES, make_outcome(prompt.group, Fate.DROPPED, DropReason.UNSCORED))


def test_a_source_that_only_drops_is_paused_on_the_log_and_the_others_go_on(make_settings: MakeSettings) -> None:
    bus, answered = MemoryBus("demo"), set[int]()
    bus.publish(POLICY, make_policy(0))
    settings = make_settings(rollout={"groups_per_step": 8, "group_size": 3, "pause_source_after": 6})
    with RunningDispatcher(settings, bus) as dispatcher:

        def is_paused() -> bool:
            drop_all(bus, dispatcher, "sums", answered)
            status = dispatcher.status()
            return status is not None and status.measures.get("paused/sums") == 1.0

        wait_for(is_paused)
        (command,) = [record.event for record in bus.reader([COMMANDS]).read_to_end()]
        assert (command.kind, command.sources) == (CommandKind.PAUSE_SOURCE, ("sums",))
        assert re.fullmatch(r"its last \d+ groups were dropped as unscored", command.reason)
        for _ in range(5):
            time.sleep(0.1)
            drop_all(bus, dispatcher, "sums", answered)
        late = [prompt for prompt in dispatcher.prompts() if prompt.group.number >= command.from_number]
        assert {prompt.group.source for prompt in late} == {"counts"}
        dispatcher.wait_until_idle("policy version 1 (staleness bound); source sums is paused until ")
        assert dispatcher.measure("drops/sums/unscored") == 1.0
        dispatcher.seconds = 31.0
        wait_for(lambda: dispatcher.measure("paused/sums") == 0.0)
    with RunningDispatcher(settings, bus) as second:
        second.wait_until_idle("policy version 1")
        prompts = second.prompts()
    assert numbers(prompts) == list(range(len(prompts)))
    maker = make_maker(settings)
    for record in bus.reader([COMMANDS]).read_to_end():
        is_pause = record.event.kind is CommandKind.PAUSE_SOURCE
        change = maker.mixture.pause if is_pause else maker.mixture.resume
        change(record.event.sources, record.event.from_number)
    made = [maker.training_prompt(prompt.group.number, prompt.progress) for prompt in prompts]
    assert [prompt.digest for prompt in made] == [prompt.digest for prompt in prompts]


def test_while_every_source_is_paused_it_waits_and_says_so(make_settings: MakeSettings) -> None:
    bus, answered = MemoryBus("demo"), set[int]()
    bus.publish(POLICY, make_policy(0))
    settings = make_settings(rollout={"groups_per_step": 8, "group_size": 3, "pause_source_after": 6})
    with RunningDispatcher(settings, bus) as dispatcher:

        def is_waiting() -> bool:
            for source in ("sums", "counts"):
                drop_all(bus, dispatcher, source, answered)
            status = dispatcher.status()
            return status is not None and status.waiting_for.startswith("a source that is not paused; source ")

        wait_for(is_waiting)
        time.sleep(0.3)
        num_burned = len(dispatcher.prompts())
        assert num_burned < 60
        time.sleep(0.5)
        assert len(dispatcher.prompts()) == num_burned
        request = Command(run="demo", id="by-hand", kind=CommandKind.RESUME_SOURCE, sources=("counts",), created_ns=1)
        bus.publish(COMMANDS, replace(request, run="another", id="another", sources=("sums",)))
        bus.publish(COMMANDS, request)
        wait_for(lambda: len(dispatcher.prompts()) > num_burned)
        late = [prompt for prompt in dispatcher.prompts() if prompt.group.number >= num_burned]
        assert {prompt.group.source for prompt in late} == {"counts"}
        assert numbers(dispatcher.prompts()) == list(range(len(dispatcher.prompts())))


def test_on_a_broker_that_lost_the_commands_a_number_is_still_the_same_prompt(make_settings: MakeSettings) -> None:
    settings = make_settings(
        rollout={"groups_per_step": 8, "group_size": 3, "pause_source_after": 6}, bus={"durable": False}
    )
    digests: list[dict[int, str]] = []
    for _ in range(2):
        bus, answered = MemoryBus("demo"), set[int]()
        bus.publish(POLICY, make_policy(0))
        with RunningDispatcher(settings, bus) as dispatcher:
            for _ in range(12):
                time.sleep(0.1)
                drop_all(bus, dispatcher, "sums", answered)
            digests.append({prompt.group.number: prompt.digest for prompt in dispatcher.prompts()})
    both = digests[0].keys() & digests[1].keys()
    assert len(both) > 16
    assert all(digests[0][number] == digests[1][number] for number in both)


def test_a_run_that_was_extended_is_not_started_with_fewer_steps(make_settings: MakeSettings) -> None:
    bus = MemoryBus("demo")
    bus.publish(COMMANDS, Command(run="demo", id="longer", kind=CommandKind.EXTEND, total_steps=6, created_ns=1))
    with RunningDispatcher(make_settings(), bus) as short:
        short.wait_until_ended()
    assert isinstance(short.error, UserError)
    assert "the run was extended to 6 steps and is started with 4" in str(short.error)
    bus.publish(POLICY, make_policy(4, settled=8, durable=4))
    with RunningDispatcher(make_settings(run={"steps": 6}), bus) as longer:
        longer.wait_until_idle("policy version 5")
        assert {(p.group.number, p.progress.total_steps) for p in longer.prompts()} == {(n, 6) for n in range(8, 12)}


def test_a_store_that_takes_no_images_is_waited_for(make_settings: MakeSettings) -> None:
    bus, settings = MemoryBus("demo"), make_settings(rollout={"inline_image_bytes": 0})
    in_the_way = settings.run.folder.store / "images"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("")
    bus.publish(POLICY, make_policy(0))
    with RunningDispatcher(settings, bus) as dispatcher:
        dispatcher.wait_until_idle("the store: ")
        assert dispatcher.prompts() == []
        in_the_way.unlink()
        dispatcher.wait_until_idle("policy version 1")
        assert numbers(dispatcher.prompts()) == [0, 1, 2, 3]
