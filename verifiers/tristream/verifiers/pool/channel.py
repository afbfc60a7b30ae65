"""The parent's end of the connection to a child: never waits, and believes nothing."""

import socket
from collections.abc import Iterator

from tristream.verifiers.pool.coercion import MAX_JUDGEMENT_BYTES
from tristream.verifiers.pool.messages import HEADER

MAX_FRAME_BYTES = 3 * MAX_JUDGEMENT_BYTES
"""Longest frame for one rollout: a judgement is a text within the JSON of a frame, which escapes its quotes."""
_READ_BYTES = 32 * 1024


class NonsenseError(Exception):
    """A child sent what no child sends."""


class Channel:
    """Frames to and from a child."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._outgoing = bytearray()
        self._incoming = bytearray()

    def fileno(self) -> int:
        """For a selector."""
        return self._connection.fileno()

    @property
    def has_outgoing(self) -> bool:
        """Whether it waits until more can be sent."""
        return bool(self._outgoing)

    def send(self, data: bytes) -> None:
        """Send bytes, now as far as there is room, the rest by ``flush``."""
        self._outgoing += data
        self.flush()

    def flush(self) -> None:
        """Send what has not gone out; what a dead child does not take is forgotten."""
        try:
            while self._outgoing:
                num_sent = self._connection.send(self._outgoing)
                del self._outgoing[:num_sent]
        except BlockingIOError:
            return
        except OSError:  # its end is told elsewhere
            self._outgoing.clear()

    def receive(self, max_bytes: int = MAX_FRAME_BYTES) -> Iterator[tuple[int, bytes]]:
        """Read once; the number and the JSON of each frame that is complete.

        Raises:
            EOFError: the child hung up.
            NonsenseError: a frame is too long, or has blobs.
        """
        try:
            data = self._connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise EOFError
        self._incoming += data
        position = 0
        try:
            while len(self._incoming) - position >= HEADER.size:
                number, num_content_bytes, num_blob_bytes = HEADER.unpack_from(self._incoming, position)
                if num_content_bytes > max_bytes or num_blob_bytes:
                    raise NonsenseError(f"it sent {num_content_bytes + num_blob_bytes} bytes instead of a verdict")
                end = position + HEADER.size + num_content_bytes
                if end > len(self._incoming):
                    break
                content = bytes(self._incoming[position + HEADER.size : end])
                position = end
                yield number, content
        finally:
            del self._incoming[:position]

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
