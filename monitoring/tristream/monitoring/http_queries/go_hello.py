"""The greeting of clickhouse-go, by which Grafana's plugin speaks HTTP.

It asks for its own revision of the format Native, reads the answer to one fixed query by it, and everything after by
the revision that this answer names. The embedded engine writes Native without a revision, so the answer names 0.
Other clients look whether their revision is followed, and do without.
"""

from urllib.parse import parse_qsl

HELLO = "SELECT displayName(), version(), revision(), timezone()"
"""Query with which it asks who answers (conn_http.go of clickhouse-go, ``queryHello``)."""
REVISION_WITH_SERIALIZATION = 54454
"""From here on each column says whether it is written in a way of its own."""

_BLOCK_INFO = b"\x01\x00\x02\xff\xff\xff\xff\x00"
"""Not a block of overflows, of no bucket."""


def is_hello(text: str, parameters: str) -> bool:
    """Whether a query is the greeting, by its text and the parameters of the address."""
    version = dict(parse_qsl(parameters)).get("client_protocol_version", "")
    is_new = version.isdigit() and int(version) >= REVISION_WITH_SERIALIZATION
    return is_new and " ".join(text.split()).rstrip("; ") == HELLO


def hello_block(display_name: str, version: str, timezone: str) -> bytes:
    """The answer: one row in Native as clickhouse-go reads it."""
    values = (
        ("displayName()", "String", _text(display_name)),
        ("version()", "String", _text(version)),
        ("revision()", "UInt32", (0).to_bytes(4, "little")),
        ("timezone()", "String", _text(timezone)),
    )
    columns = b"".join(_text(name) + _text(kind) + b"\x00" + value for name, kind, value in values)
    return _BLOCK_INFO + _number(len(values)) + _number(1) + columns


def _text(text: str) -> bytes:
    data = text.encode()
    return _number(len(data)) + data


def _number(value: int) -> bytes:
    """LEB128, as ClickHouse writes lengths."""
    digits = []
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])
