"""What crosses between a pool and its children: frames of JSON, and the bytes of images behind it.

    frame: number (8 bytes) | length of the JSON (4) | length of the blobs (4) | JSON | blobs

JSON is escaped to ASCII on the way to a child, so that any text arrives as it is, lone surrogates included.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from struct import Struct
from typing import Any, Protocol

from tristream.verifiers.contract import Image, Message, Rollout
from tristream.verifiers.pool.tasks import Task

HEADER = Struct(">QII")
FACTS_NUMBER = 0
"""The first frame of a child: what it has loaded, or why it cannot."""

_COMPOSED_FIELDS = ("truth", "messages", "images", "columns")
_PLAIN_FIELDS = tuple(field.name for field in fields(Rollout) if field.name not in _COMPOSED_FIELDS)
_plain_values = attrgetter(*_PLAIN_FIELDS)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, fewer at the end."""
        ...


def pack_frame(number: int, content: bytes, blobs: Sequence[bytes] = ()) -> bytes:
    """A frame as bytes."""
    header = HEADER.pack(number, len(content), sum(len(blob) for blob in blobs))
    return b"".join((header, content, *blobs))


def read_frame(stream: Readable) -> tuple[int, bytes, bytes]:
    """The next frame of a stream: its number, its JSON, its blobs.

    Raises:
        EOFError: the stream has ended.
    """
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        raise EOFError
    number, num_content_bytes, num_blob_bytes = HEADER.unpack(header)
    content, blobs = stream.read(num_content_bytes), stream.read(num_blob_bytes)
    if len(content) < num_content_bytes or len(blobs) < num_blob_bytes:
        raise EOFError
    return number, content, blobs


def pack_task(number: int, task: Task, *, with_images: bool) -> bytes:
    """A task as a frame; the bytes of images only for verifiers that need them.

    Raises:
        TypeError, ValueError, RecursionError: a column of a rollout is no JSON value.
    """
    blobs = [image.data for rollout in task.rollouts for image in rollout.images] if with_images else []
    rollouts = [
        (
            _plain_values(rollout),
            [(message.role, message.content) for message in rollout.messages],
            [(image.media_type, image.sha256, len(image.data) if with_images else 0) for image in rollout.images],
            dict(rollout.columns),
        )
        for rollout in task.rollouts
    ]
    return pack_frame(number, json.dumps((task.verifier, task.params_json, rollouts)).encode(), blobs)


def unpack_task(content: bytes, blobs: bytes) -> tuple[str, str, list[dict[str, Any]]]:
    """Verifier, ``params_json``, and the fields of each ``Rollout``, without its truth."""
    verifier, params_json, packed = json.loads(content)
    rollouts: list[dict[str, Any]] = []
    position = 0
    for plain, messages, images, columns in packed:
        unpacked: dict[str, Any] = dict(zip(_PLAIN_FIELDS, plain, strict=True))
        if messages:
            unpacked["messages"] = tuple(Message(role=role, content=text) for role, text in messages)
        if images:
            found = []
            for media_type, sha256, num_bytes in images:
                data = blobs[position : position + num_bytes]
                found.append(Image(media_type=media_type, sha256=sha256, data=data))
                position += num_bytes
            unpacked["images"] = tuple(found)
        if columns:
            unpacked["columns"] = columns
        rollouts.append(unpacked)
    return verifier, params_json, rollouts


def to_json(value: Sequence[Any] | Mapping[str, Any]) -> bytes:
    """JSON for a parent: lone surrogates become ``?``, and numbers that no JSON has are refused.

    Raises:
        ValueError: there is a NaN or an infinity in it.
    """
    return _ENCODER.encode(value).encode(errors="replace")
