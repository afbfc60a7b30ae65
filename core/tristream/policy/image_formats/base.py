"""What every reader of a format gives: the size that the header promises, or why the image is refused."""

from dataclasses import dataclass

MAX_BLOCKS = 500_000
"""Blocks of a file that are walked over; files of images for a model have far fewer."""


class ImageRefusedError(ValueError):
    """An image that is not opened; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of the pixels that it would become."""

    width: int
    height: int
    num_frames: int = 1


class Blocks:
    """Reads a file from its front to its end, block by block; nothing is copied but what is asked for.

    All calls raise ``ImageRefusedError`` where the file ends too early, or has too many blocks.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._num_blocks = 0
        self.position = 0

    @property
    def is_at_end(self) -> bool:
        """Whether nothing is left."""
        return self.position >= len(self._data)

    def read(self, num_bytes: int) -> bytes:
        """The next bytes."""
        start = self.position
        self.skip(num_bytes)
        return self._data[start : self.position]

    def skip(self, num_bytes: int) -> None:
        """Pass over the next bytes."""
        self._num_blocks += 1
        if self._num_blocks > MAX_BLOCKS:
            raise ImageRefusedError(f"the {self._name} has more than {MAX_BLOCKS} blocks")
        self.position += num_bytes
        if self.position > len(self._data):
            raise ImageRefusedError(f"the {self._name} is cut off")
