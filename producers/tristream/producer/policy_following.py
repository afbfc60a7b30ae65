"""Which policy versions there are: follows the learner's announcements."""

from collections import OrderedDict
from collections.abc import Sequence

from tristream.runtime.bus.protocol import Bus
from tristream.wire.events import Weights
from tristream.wire.topics import POLICY

REMEMBERED_VERSIONS = 64
"""Versions whose weights are known; older ones have left the store long before."""


class PolicyFollower:
    """Knows the newest announced weights, and the last announced ones of the newest versions.

    A learner that resumes from a checkpoint announces an earlier version again, so the newest is the
    last announced, not the greatest. One thread may poll while another one asks and observes.
    """

    def __init__(self, bus: Bus) -> None:
        self._reader = bus.reader([POLICY])
        self._by_version: OrderedDict[int, Weights] = OrderedDict()
        self._newest: Weights | None = None
        for record in self._reader.read_to_end():
            self.observe(record.event.weights)

    @property
    def newest(self) -> Weights | None:
        """The weights to sample with; None before the learner announced any."""
        return self._newest

    def announced(self, version: int) -> Weights | None:
        """The last announced weights of a version, if they were seen and are not long past."""
        return self._by_version.get(version)

    def poll(self, timeout_seconds: float) -> Sequence[Weights]:
        """What was announced since, in order; waits at most so long for something."""
        return [record.event.weights for record in self._reader.poll(timeout_seconds)]

    def observe(self, weights: Weights) -> None:
        """Take in what was announced."""
        self._newest = weights
        self._by_version[weights.version] = weights
        self._by_version.move_to_end(weights.version)
        while len(self._by_version) > REMEMBERED_VERSIONS:
            self._by_version.popitem(last=False)

    def close(self) -> None:
        """Release the connection."""
        self._reader.close()
