"""Policy versions: where new weights are, and which groups the learner has settled."""

from dataclasses import dataclass

from tristream.wire.events.ledgers import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where the weights of one policy version are."""

    version: int
    uri: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """The learner reached a version, or made one durable; told again, the last one counts."""

    run: str
    weights: Weights
    total_steps: int
    durable: Ledger
    """The ledger of the newest durable checkpoint."""
    created_ns: int
