"""The life of an added verifier as its worker reads it from the log, and what a worker serves."""

import hashlib
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import RUN, make_rollout, make_term

from tristream.config.verification import VerificationSection
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.store import BlobError, BlobStore
from tristream.verifiers.service.addition import Addition, find_code
from tristream.verifiers.service.following import FollowedAddition
from tristream.verifiers.service.images import ImageReader
from tristream.verifiers.service.selection import select_served
from tristream.verifiers.service.terms import Shadow
from tristream.wire.events import Command, CommandKind, Image, Interval, Ledger, PolicyVersion, Split, Weights
from tristream.wire.topics import COMMANDS, POLICY
from tristream.wire.verifiers import BUILT_IN_VERSIONS


def make_command(kind: CommandKind, number: int, **fields: Any) -> Command:
    facts: dict[str, Any] = {"run": RUN, "verifier": "brief", "version": "2", "created_ns": number, **fields}
    return Command(id=f"{number}", kind=kind, **facts)


def make_policy(*settled: tuple[int, int]) -> PolicyVersion:
    return PolicyVersion(
        run=RUN,
        weights=Weights(version=1, uri="none", sha256="0"),
        total_steps=9,
        durable=Ledger(step=1, settled=tuple(Interval(start=start, end=end) for start, end in settled)),
        created_ns=1,
    )


def read(bus: MemoryBus) -> Addition:
    addition = Addition(RUN, "brief@2")
    for record in bus.reader([COMMANDS, POLICY]).read_to_end():
        addition.observe(record)
    return addition


def test_the_newest_life_counts_from_its_addition_to_its_last_group() -> None:
    person = MemoryBus(RUN)
    run = person.as_part("dispatcher")
    with pytest.raises(UserError, match="has no verifier brief@2"):
        read(person).begin()
    person.publish(COMMANDS, make_command(CommandKind.ADD, 0))
    with pytest.raises(UserError, match="has no verifier brief@2"):
        read(person).begin()  # nobody has answered
    run.take_over([COMMANDS], 1)
    run.publish(COMMANDS, make_command(CommandKind.ADD, 1, verifier="other"))
    run.publish(COMMANDS, make_command(CommandKind.ADD, 2, sources=("c",), refusal="it was added before"))
    run.publish(COMMANDS, make_command(CommandKind.ADD, 2, sources=("a",), params_json='{"n": 1}'))
    run.publish(COMMANDS, make_command(CommandKind.ADD, 3, sources=("b",)))
    shadow = read(person).begin()
    assert (shadow.sources, shadow.params_json) == (frozenset({"a"}), '{"n": 1}')
    assert shadow.from_ns > 0

    person.publish(COMMANDS, make_command(CommandKind.RETIRE, 4))
    person.publish(POLICY, make_policy((0, 90)))
    assert not read(person).is_over, "a request is no answer"
    run.publish(COMMANDS, make_command(CommandKind.RETIRE, 5, from_number=50, refusal="no verifier would be left"))
    run.publish(COMMANDS, make_command(CommandKind.RETIRE, 6, from_number=50, verifier="other"))
    assert not read(person).is_over
    run.publish(COMMANDS, make_command(CommandKind.RETIRE, 7, from_number=95, from_version=4))
    person.publish(POLICY, make_policy((0, 90), (91, 100)))
    retired = read(person)
    assert (retired.is_over, retired.begin().retired_from_number) == (False, 95)
    person.publish(POLICY, make_policy((0, 95)))
    assert read(person).is_over

    run.publish(COMMANDS, make_command(CommandKind.ADD, 8, refusal="its code was another"))
    assert read(person).is_over, "what the run refuses begins no new life"
    run.publish(COMMANDS, make_command(CommandKind.ADD, 9, from_earliest=True))
    again = read(person)
    assert (again.is_over, again.begin().from_ns, again.begin().retired_from_number) == (False, 0, None)


def test_whoever_follows_the_log_hears_of_the_end() -> None:
    bus = MemoryBus(RUN)
    run = bus.as_part("dispatcher")
    run.take_over([COMMANDS], 1)
    run.publish(COMMANDS, make_command(CommandKind.ADD, 1))
    with FollowedAddition(bus, "brief@2") as addition:
        assert (addition.command.id, addition.shadow.retired_from_number) == ("1", None)
        run.publish(COMMANDS, make_command(CommandKind.RETIRE, 2, from_number=10))
        assert not addition.over.wait(1.0)
        assert addition.shadow.retired_from_number == 10
        bus.publish(POLICY, make_policy((0, 10)))
        assert addition.over.wait(10.0)


def test_a_retired_verifier_covers_what_was_dispatched_before() -> None:
    shadow = Shadow(verifier="brief", version="2", sources=frozenset(), params_json="{}")
    training = [make_rollout("x", number=number).group for number in (4, 5)]
    evaluation = [replace(training[0], split=Split.EVAL, number=9, eval_step=step) for step in (1, 2)]
    assert all(map(shadow.covers, [*training, *evaluation]))
    shadow.retired_from_number, shadow.retired_from_version = 5, 2
    assert [shadow.covers(group) for group in (*training, *evaluation)] == [True, False, True, False]


def test_the_code_is_the_file_that_was_added(tmp_path: Path) -> None:
    folder, given = RunFolder(tmp_path / "run"), tmp_path / "brief.py"
    given.write_text("as added")
    digest = hashlib.sha256(b"as added").hexdigest()
    command = make_command(CommandKind.ADD, 1, entry_point=f"{given}:brief", code_sha256=digest)
    assert find_code(command, folder) == f"{given}:brief"
    given.write_text("edited")
    with pytest.raises(UserError, match="not the file that was added as brief@2"):
        find_code(command, folder)
    copy = folder.path / "verifiers" / "brief@2.py"
    copy.parent.mkdir(parents=True)
    copy.write_text("as added")
    assert find_code(command, folder) == f"{copy}:brief"
    copy.unlink()
    given.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        find_code(command, folder)
    module = make_command(CommandKind.ADD, 1, entry_point="briefs:brief")
    assert find_code(module, folder) == "briefs:brief"


def test_a_worker_serves_all_verifiers_or_those_that_are_named() -> None:
    plug_ins = {"brief@1": "brief.py:brief", "brief@2": "brief.py:brief"}
    built_ins = {f"{name}@{version}": "" for name, version in BUILT_IN_VERSIONS.items()}
    assert select_served(VerificationSection(plug_ins=plug_ins)) == {**built_ins, **plug_ins}
    named = VerificationSection(plug_ins=plug_ins, verifiers=("brief@2", "mathverify"))
    assert set(select_served(named)) == {"brief@2", f"math@{BUILT_IN_VERSIONS['math']}"}
    assert set(select_served(VerificationSection(plug_ins=plug_ins, verifiers=("brief",)))) == set(plug_ins)
    with pytest.raises(UserError, match="unknown verifier 'brief@3'"):
        select_served(VerificationSection(plug_ins=plug_ins, verifiers=("brief", "brief@3")))


def test_an_image_is_read_once_and_the_least_wanted_one_goes(tmp_path: Path) -> None:
    store = BlobStore(str(tmp_path), inline_limit_bytes=0)
    images = [store.put_image(bytes([number]) * 40, "image/png") for number in range(3)]
    reader = ImageReader(lambda: store, stop=threading.Event(), kept_bytes=100)
    for image in (images[0], images[1], images[0], images[2], images[0]):
        assert len(reader.read(image)) == 40
    assert reader.num_reads == 3
    reader.read(images[1])
    assert reader.num_reads == 4, "it was wanted least"
    inline = Image(media_type="image/png", sha256="0", size_bytes=1, data=b"x")
    assert (reader.read(inline), reader.num_reads) == (b"x", 4)
    with pytest.raises(BlobError):
        reader.read(Image(media_type="image/png", sha256="1" * 64, size_bytes=1, uri=f"{tmp_path}/images/none"))


def test_terms_of_another_version_are_no_reason_to_leave_a_shadow_out() -> None:
    rollout = make_rollout("x", terms=[make_term("brief", "1")])
    shadow = Shadow(verifier="brief", version="2", sources=frozenset(), params_json="{}")
    assert shadow.covers(rollout.group)
    assert (shadow.term.id, shadow.term.version, shadow.term.counts) == ("brief", "2", False)
