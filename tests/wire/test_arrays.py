"""Packed arrays are little-endian bytes, four an element, and give back what they were given."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.wire.arrays import LogProbs, Tokens

INTEGERS = st.lists(st.integers(-(2**31), 2**31 - 1))
FLOATS = st.lists(st.floats(width=32, allow_nan=False))


@given(INTEGERS)
def test_token_ids_are_little_endian_int32(values: list[int]) -> None:
    tokens = Tokens.of(values)
    assert tokens.data == struct.pack(f"<{len(values)}i", *values)
    assert tokens.to_list() == values
    assert len(tokens) == len(values)


@given(FLOATS)
def test_log_probabilities_are_little_endian_float32(values: list[float]) -> None:
    logprobs = LogProbs.of(values)
    assert logprobs.data == struct.pack(f"<{len(values)}f", *values)
    assert logprobs.to_list() == values


@given(INTEGERS, INTEGERS)
def test_arrays_are_equal_if_and_only_if_their_elements_are(left: list[int], right: list[int]) -> None:
    assert (Tokens.of(left) == Tokens.of(right)) == (left == right)
    assert hash(Tokens.of(left)) == hash(Tokens.of(list(left)))


@given(st.binary(max_size=20))
def test_bytes_that_are_not_whole_elements_are_refused(data: bytes) -> None:
    if len(data) % 4 == 0:
        assert Tokens.of(Tokens(data).to_list()).data == data
    else:
        with pytest.raises(ValueError, match=f"array of {len(data)} bytes is not whole i4 elements"):
            Tokens(data)


def test_a_token_id_beyond_32_bits_is_refused() -> None:
    with pytest.raises(OverflowError):
        Tokens.of([2**31])
