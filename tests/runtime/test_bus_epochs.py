"""A part that was taken over publishes into the void: for every reader, whenever and wherever it begins."""

import pytest

from buses import as_part, make_outcome, publish_raw, read_errors, read_letters, read_numbers
from tristream.runtime.bus.protocol import Bus
from tristream.wire.events import Command, CommandKind
from tristream.wire.topics import COMMANDS, OUTCOMES, STEPS

VOID = "void: written under epoch 1, and epoch 2 has taken over"


def of_one_group(bus: Bus, *epochs_in_order: tuple[Bus, int]) -> None:
    """Outcomes of one group, so that they share a partition; they are told apart by when they were created."""
    for writer, number in epochs_in_order:
        group = make_outcome(7, bus.run).group
        outcome = make_outcome(number, bus.run)
        object.__setattr__(outcome, "group", group)
        writer.publish(OUTCOMES, outcome).result(10)


def make_command(name: str) -> Command:
    return Command(run="test", id=name, kind=CommandKind.PAUSE_SOURCE, sources=("words",), created_ns=1)


def read_created(bus: Bus, **options: object) -> list[int]:
    reader = bus.reader([OUTCOMES], **options)  # type: ignore[arg-type]
    created = [record.event.created_ns for record in reader.read_to_end()]
    reader.close()
    return created


def test_what_a_zombie_writes_is_void_for_early_and_late_readers_and_each_record_is_a_dead_letter(bus: Bus) -> None:
    zombie, successor = as_part(bus, "zombie"), as_part(bus, "successor")
    early = bus.reader([OUTCOMES])
    zombie.take_over([OUTCOMES], 1)
    of_one_group(bus, (zombie, 1), (zombie, 2))
    assert [record.event.created_ns for record in early.read_to_end()] == [1, 2]
    successor.take_over([OUTCOMES], 2)
    of_one_group(bus, (zombie, 3), (successor, 4), (zombie, 5))
    assert [record.event.created_ns for record in early.read_to_end()] == [4]
    assert read_created(bus) == [1, 2, 4]
    assert read_errors(bus) == [VOID] * 4  # two readers, two records
    assert {letter.key for letter in read_letters(bus)} == {f"{bus.run}/7".encode()}
    early.close()
    zombie.close()
    successor.close()


def test_a_reader_that_begins_after_the_fence_knows_who_has_taken_over(bus: Bus) -> None:
    zombie, successor = as_part(bus, "zombie"), as_part(bus, "successor")
    zombie.take_over([OUTCOMES], 1)
    of_one_group(bus, (zombie, 1))
    successor.take_over([OUTCOMES], 2)
    member = bus.reader([OUTCOMES], group="sink")
    assert [record.event.created_ns for record in member.read_to_end()] == [1]
    offsets = dict(member.positions())
    member.commit()
    member.close()
    of_one_group(bus, (zombie, 3), (successor, 4))
    assert read_created(bus, offsets=offsets) == [4]
    assert read_created(bus, group="sink") == [4]
    zombie.close()
    successor.close()


def test_a_fence_of_an_earlier_epoch_changes_nothing(bus: Bus) -> None:
    zombie, successor = as_part(bus, "zombie"), as_part(bus, "successor")
    successor.take_over([OUTCOMES], 2)
    zombie.take_over([OUTCOMES], 1)
    of_one_group(bus, (zombie, 1), (successor, 2))
    assert read_created(bus) == [2]
    zombie.close()
    successor.close()


def test_a_fence_concerns_its_topics_alone_and_what_comes_without_an_epoch_after_it_is_void(bus: Bus) -> None:
    owner = as_part(bus, "owner")
    owner.take_over([STEPS], 9)
    bus.publish(OUTCOMES, make_outcome(0, bus.run)).result(10)
    owner.take_over([OUTCOMES], 9)
    bus.publish(OUTCOMES, make_outcome(1, bus.run)).result(10)
    owner.publish(OUTCOMES, make_outcome(2, bus.run)).result(10)
    assert sorted(read_numbers(bus.reader([OUTCOMES]))) == [0, 2]
    assert read_errors(bus) == ["void: written without an epoch, and epoch 9 has taken over"]
    owner.close()


def test_topics_that_many_write_need_no_epoch_but_one_that_is_no_number_is_void(bus: Bus) -> None:
    owner = as_part(bus, "owner")
    owner.take_over([COMMANDS], 3)
    bus.publish(COMMANDS, make_command("a person's")).result(10)
    value = COMMANDS.codec.encode(make_command("forged"))
    publish_raw(bus, bus.run, value, {"contract": b"2", "epoch": b"-1"}, topic=COMMANDS)
    reader = bus.reader([COMMANDS])
    assert [record.event.id for record in reader.read_to_end()] == ["a person's"]
    assert read_errors(bus) == ["void: '-1' is no epoch"]
    reader.close()
    owner.close()


@pytest.mark.parametrize("epoch", [b"999999", b"2", b"9" * 30, b"-1", b"", b"later"])
@pytest.mark.parametrize("kind", ["epoch", "tristream-fence"])
def test_a_stray_epoch_or_fence_voids_nothing_that_follows(bus: Bus, kind: str, epoch: bytes) -> None:
    if kind == "tristream-fence" and epoch == b"2":
        pytest.skip("this is what a successor writes")
    stray = (f"{bus.run}/7", OUTCOMES.codec.encode(make_outcome(8, bus.run)), {"contract": b"2", kind: epoch})
    owner, successor = as_part(bus, "owner"), as_part(bus, "successor")
    publish_raw(bus, *stray) if epoch != b"2" else None
    owner.take_over([OUTCOMES], 1)
    of_one_group(bus, (owner, 1))
    publish_raw(bus, *stray)
    of_one_group(bus, (owner, 2))
    offsets = {("outcomes", number): 3 for number in range(4)}
    late = bus.reader([OUTCOMES], offsets=offsets)
    successor.take_over([OUTCOMES], 2)
    of_one_group(bus, (owner, 3), (successor, 4))
    assert [created for created in read_created(bus) if created != 8] == [1, 2, 4]
    assert [record.event.created_ns for record in late.read_to_end()][-2:] == [2, 4]
    late.close()
    owner.close()
    successor.close()


def test_epochs_that_were_counted_on_from_a_stray_take_over_with_their_first_record(bus: Bus) -> None:
    owner, successor = as_part(bus, "owner"), as_part(bus, "successor")
    owner.take_over([OUTCOMES], 1)
    of_one_group(bus, (owner, 1))
    successor.take_over([OUTCOMES], 1_000_000)
    of_one_group(bus, (successor, 2), (owner, 3), (successor, 4))
    assert read_created(bus) == [1, 2, 4]
    owner.close()
    successor.close()
