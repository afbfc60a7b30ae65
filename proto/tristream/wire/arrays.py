"""Packed arrays: token ids and log-probabilities as little-endian bytes, from the producer to the tensor.

They compare and hash like the facts they are, cost four bytes an element, and are decoded only by who needs
them.
"""

import math
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

ITEM_BYTES = 4
LARGEST_EXPONENT = b"\x7f"
"""High byte of a float32 that is at least 2**127, infinite or NaN."""
NEGATIVE_LARGEST_EXPONENT = b"\xff"


@dataclass(frozen=True, slots=True)
class PackedArray:
    """A one-dimensional array as bytes.

    Raises:
        ValueError: the bytes are not whole elements.
    """

    data: bytes = b""
    dtype: ClassVar[str]
    _typecode: ClassVar[str]

    def __post_init__(self) -> None:
        if len(self.data) % ITEM_BYTES:
            raise ValueError(f"array of {len(self.data)} bytes is not whole {self.dtype} elements")

    @classmethod
    def _pack(cls, values: Iterable[Any]) -> Self:
        packed = array(cls._typecode, values)
        if sys.byteorder == "big":
            packed.byteswap()
        return cls(packed.tobytes())

    def _unpack(self) -> list[Any]:
        values: array[Any] = array(self._typecode)
        values.frombytes(self.data)
        if sys.byteorder == "big":
            values.byteswap()
        return values.tolist()

    def __len__(self) -> int:
        return len(self.data) // ITEM_BYTES

    def __repr__(self) -> str:
        return f"{type(self).__name__}.of({self._unpack()})"


@dataclass(frozen=True, slots=True, repr=False)
class Tokens(PackedArray):
    """Token ids (int32).

    Example:
        >>> Tokens.of([5, 7]).to_list()
        [5, 7]
    """

    dtype: ClassVar[str] = "i4"
    _typecode: ClassVar[str] = "i"

    @classmethod
    def of(cls, values: Iterable[int]) -> "Tokens":
        """Pack token ids."""
        return cls._pack(values)

    def to_list(self) -> list[int]:
        """The token ids."""
        return self._unpack()


@dataclass(frozen=True, slots=True, repr=False)
class LogProbs(PackedArray):
    """Log-probabilities in nats (float32)."""

    dtype: ClassVar[str] = "f4"
    _typecode: ClassVar[str] = "f"

    @classmethod
    def of(cls, values: Iterable[float]) -> "LogProbs":
        """Pack log-probabilities; they are rounded to float32."""
        return cls._pack(values)

    @property
    def is_finite(self) -> bool:
        """Whether none of them is NaN or infinite; looked at as bytes, which is much faster than as numbers."""
        high_bytes = self.data[ITEM_BYTES - 1 :: ITEM_BYTES]
        if LARGEST_EXPONENT not in high_bytes and NEGATIVE_LARGEST_EXPONENT not in high_bytes:
            return True
        return all(map(math.isfinite, self._unpack()))

    def to_list(self) -> list[float]:
        """The log-probabilities."""
        return self._unpack()
