"""Rewards: what one verifier version says of one rollout."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tristream.wire import identities
from tristream.wire.events.samples import Group, TermMode


class Status(StrEnum):
    """What came of judging a rollout."""

    SCORED = "scored"
    UNSCORABLE = "unscorable"
    """The truth or the parameters are unusable."""
    TIMEOUT = "timeout"
    """The verifier used up its CPU time, its wall time or its memory."""
    ERROR = "error"
    """The verifier failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What one verifier says of one rollout."""

    group: Group
    index: int
    term_id: str
    """The reward term that it answers."""
    verifier: str
    version: str
    mode: TermMode = TermMode.ACTIVE
    """What the score is used for, as the term says."""
    status: Status
    detail: str = ""
    components: Mapping[str, float] = field(default_factory=dict)
    """Values by name, each within the range that the verifier declares. Only SCORED has them, and TIMEOUT, all zeros,
    where such an answer counts as a wrong one."""
    abstained: tuple[str, ...] = ()
    """Components that the verifier has no opinion on here: the others make the final reward alone."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    params_json: str = "{}"
    queued_seconds: float
    score_seconds: float
    created_ns: int

    @property
    def id(self) -> str:
        """``ROLLOUT|term|version``."""
        rollout_id = identities.rollout_id(self.group.id, self.index)
        return identities.reward_id(rollout_id, self.term_id, self.version)
