"""The children that live, and what the kernel tells of them."""

import itertools
import selectors
import signal
import time
from contextlib import suppress

from tristream.verifiers.pool.children import Child, ChildOwner
from tristream.verifiers.pool.fork_client import ForkClient
from tristream.verifiers.pool.lane_spec import LaneSpec


class Nursery:
    """Has children forked, stopped and killed, and tells their owners what comes of them."""

    def __init__(self, fork_client: ForkClient) -> None:
        self._fork_client = fork_client
        self._numbers = itertools.count(1)
        self._children: dict[int, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(fork_client.control, selectors.EVENT_READ)

    def watch(self, file_descriptor: int) -> None:
        """Wake up when something else can be read, too; whoever wrote it expects that."""
        self._selector.register(file_descriptor, selectors.EVENT_READ)

    def spawn(self, owner: ChildOwner, spec: LaneSpec, slot: int = 0) -> Child:
        """A new child; it becomes ready when its owner reads its first frame.

        Raises:
            PoolError: the fork server is gone.
        """
        number = next(self._numbers)
        channel, progress = self._fork_client.spawn(number, spec)
        child = Child(number, owner, slot, channel, progress, spawned_seconds=time.monotonic())
        self._children[number] = child
        self._selector.register(channel, selectors.EVENT_READ, child)
        return child

    def send(self, child: Child, data: bytes) -> None:
        """Send a child bytes, the rest of them when there is room."""
        child.channel.send(data)
        if child.channel.has_outgoing:
            self._selector.modify(child.channel, selectors.EVENT_READ | selectors.EVENT_WRITE, child)

    def kill(self, child: Child) -> None:
        """Kill a child; nothing more is told of it."""
        if self._children.pop(child.number, None) is None:
            return
        self._fork_client.signal(child.number, signal.SIGKILL)
        self._close(child)

    def stop(self, child: Child) -> None:
        """Let a child stand still."""
        self._fork_client.signal(child.number, signal.SIGSTOP)

    def lower(self, child: Child) -> None:
        """Let a child run only with CPU time that nobody else wants."""
        self._fork_client.lower(child.number)

    def resume(self, child: Child) -> None:
        """Let a child that stands still go on."""
        self._fork_client.signal(child.number, signal.SIGCONT)

    def run_once(self, timeout_seconds: float | None) -> None:
        """Wait for something to happen, for so long at most, and tell the owners.

        Raises:
            PoolError: the fork server is gone.
        """
        events = self._selector.select(timeout_seconds)
        now_seconds = time.monotonic()
        has_news = False
        for key, mask in events:
            child = key.data
            if child is None:
                has_news = has_news or key.fileobj is self._fork_client.control
                continue
            if mask & selectors.EVENT_WRITE:
                child.channel.flush()
                if not child.channel.has_outgoing:
                    self._selector.modify(child.channel, selectors.EVENT_READ, child)
            if mask & selectors.EVENT_READ and child.number in self._children:
                self._receive(child, now_seconds)
        if has_news:
            self._hear_of_ends(now_seconds)

    def close(self) -> None:
        """Forget all children; the fork server kills them."""
        for child in list(self._children.values()):
            self._close(child)
        self._children.clear()
        self._selector.close()

    def _receive(self, child: Child, now_seconds: float) -> None:
        try:
            child.owner.receive(child, now_seconds)
        except EOFError:
            # It hung up: it is ending, or made to. What it said before is read; its end is told with its status.
            self._selector.unregister(child.channel)
            self._fork_client.signal(child.number, signal.SIGKILL)

    def _hear_of_ends(self, now_seconds: float) -> None:
        for kind, number, value in self._fork_client.events():
            child = self._children.get(number)
            if child is None:
                continue
            if kind == "started":
                child.pid = value
                continue
            with suppress(EOFError):  # its last words may still be there
                child.owner.receive(child, now_seconds)
            if self._children.pop(number, None) is not None:
                self._close(child)
                child.owner.ended(child, value)

    def _close(self, child: Child) -> None:
        with suppress(KeyError):
            self._selector.unregister(child.channel)
        child.channel.close()
