"""Rewards: what one verifier version says of one rollout."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tristream.wire import identities
from tristream.wire.events.samples import Group, TermMode


class Status(StrEnum):
    """What came of judging a rollout; only SCORED is a number."""

    SCORED = "scored"
    UNSCORABLE = "unscorable"
    TIMEOUT = "timeout"
    ERROR = "error"


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
