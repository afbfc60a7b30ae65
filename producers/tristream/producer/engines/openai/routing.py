"""Which server a prompt goes to: one that has read its beginning, unless that one is clearly busier than another.

equal prompts          the same server, by their hash alone
a later turn           the server that has read at least half of it
a server is busier     the least busy one
"""

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence

from tristream.wire.arrays import Tokens

BLOCK_TOKENS = 32
"""Prefixes are remembered at multiples of this length."""
MOST_BLOCKS = 200_000
KNOWN_SHARE = 0.5
"""A server is preferred if it has read so much of a prompt; less is often what all prompts begin with."""
BUSIER_FACTOR, BUSIER_REQUESTS = 1.25, 16
"""A server is clearly busier if it has more requests than the least busy one's times the one plus the other."""


def rendezvous(key: bytes, names: Collection[str]) -> str:
    """One of some names for a key: one that joins or leaves changes the choice of no keys but its own."""
    return max(names, key=lambda name: (hashlib.blake2b(name.encode(), key=key[:64]).digest(), name))


def choose_server(preferred: str, num_running: Mapping[str, int]) -> str:
    """The preferred server, or the least busy one if that is clearly less busy.

    Args:
        preferred: a name among those of ``num_running``.
        num_running: requests at each server.
    """
    least = min(num_running, key=lambda name: (num_running[name], name))
    is_busier = num_running[preferred] > BUSIER_FACTOR * num_running[least] + BUSIER_REQUESTS
    return least if is_busier else preferred


class PrefixMemory:
    """Which server has read which prompts, by the hashes of their prefixes; the oldest are forgotten."""

    def __init__(self, most_blocks: int = MOST_BLOCKS) -> None:
        self._servers: OrderedDict[bytes, str] = OrderedDict()
        self._most_blocks = most_blocks

    def prefer(self, tokens: Sequence[int], names: Collection[str]) -> str:
        """The server for a prompt, of some that are there."""
        known, num_known = None, 0
        for number, digest in enumerate(_prefix_digests(tokens), start=1):
            server = self._servers.get(digest)
            if server is None:
                break
            if server in names:
                known, num_known = server, number * BLOCK_TOKENS
        if known is not None and num_known >= KNOWN_SHARE * len(tokens):
            return known
        return rendezvous(_digest(b"", tokens), names)

    def remember(self, tokens: Sequence[int], server: str) -> None:
        """Note what a server reads; what another one has read stays that one's."""
        for digest in _prefix_digests(tokens):
            self._servers.setdefault(digest, server)
            self._servers.move_to_end(digest)
        while len(self._servers) > self._most_blocks:
            self._servers.popitem(last=False)

    def forget(self, server: str) -> None:
        """A server has lost what it had read."""
        for digest in [digest for digest, name in self._servers.items() if name == server]:
            del self._servers[digest]


def _prefix_digests(tokens: Sequence[int]) -> Iterator[bytes]:
    """Hashes of the prefixes of 1, 2, ... whole blocks."""
    digest = b""
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        digest = _digest(digest, tokens[start : start + BLOCK_TOKENS])
        yield digest


def _digest(before: bytes, tokens: Sequence[int]) -> bytes:
    return hashlib.blake2b(before + Tokens.of(tokens).data, digest_size=16).digest()
