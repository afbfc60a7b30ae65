"""What Faust commits."""

from dataclasses import dataclass

import pytest

from tristream.verifiers.service.faust_consumer import SafeConsumer


@dataclass(frozen=True)
class Held:
    """A message as the consumer keeps it."""

    tp: tuple[str, int]
    offset: int
    acked: bool


def make_consumer(committed: int | None, acked: list[int], in_hand: list[int]) -> SafeConsumer:
    consumer = object.__new__(SafeConsumer)
    tp = ("topic", 0)
    consumer._acked = {tp: list(acked)}
    consumer._acked_index = {tp: set(acked)}
    consumer._gap = {tp: []}
    consumer._committed_offset = {tp: committed}
    consumer._unacked_messages = {Held(tp=tp, offset=offset, acked=False) for offset in in_hand}
    return consumer


@pytest.mark.parametrize(
    ("committed", "acked", "in_hand", "offset"),
    [
        (5, [5, 6, 7], [], 8),
        (5, [6, 7, 8], [5], None),
        (5, [5, 7, 8], [6], 6),
        (None, [1, 2, 3], [0], None),
        (5, [], [5], None),
    ],
)
def test_a_commit_never_passes_a_message_in_hand(
    committed: int | None, acked: list[int], in_hand: list[int], offset: int | None
) -> None:
    consumer = make_consumer(committed, acked, in_hand)
    assert consumer._new_offset(("topic", 0)) == offset
    remaining = [number for number in acked if in_hand and number > min(in_hand)]
    assert consumer._acked[("topic", 0)][-len(remaining) :] == remaining or not remaining
