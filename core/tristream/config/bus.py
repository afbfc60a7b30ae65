"""``[bus]``: where the events go."""

from pydantic import Field

from tristream.config.base import Section


class BusSection(Section):
    """Where the events go."""

    bootstrap_servers: str = ""
    """Kafka brokers; empty means a broker started for this run (``tristream up``)."""
    durable: bool = True
    """Whether the brokers keep their log over a restart; if not, the offsets in a checkpoint are not used."""
    prefix: str = "tristream"
    """First part of the topic names."""
    num_partitions: int | None = Field(default=None, ge=1)
    """Partitions of each topic; as many producers, and workers of a verifier, have work at once. Not given: 4, or 2
    where the broker is the embedded one, which shares the machine: every reader asks it for every partition."""
    replication_factor: int = Field(default=1, ge=1)
    """Replicas of each partition."""
    min_insync_replicas: int = Field(default=1, ge=1)
    """Replicas that must have a record before it is acknowledged."""
    retention_hours: float | None = Field(default=None, gt=0)
    """How long the brokers keep the events; not given means for ever, as resuming, auditing and replaying need them."""
    create_topics: bool = True
    """Whether topics that do not exist are made; if not, they must be there before the start."""
    session_timeout_seconds: float = Field(default=6.0, gt=0)
    """A silent consumer is replaced after this time."""
    fetch_wait_seconds: float = Field(default=0.1, gt=0)
    """Longest time a broker holds an empty fetch; a broker that does not wake a waiting fetch adds it to each hop."""
    linger_seconds: float | None = Field(default=None, ge=0)
    """How long a record waits for others to go with it; not given: 2 ms, or 50 ms where the broker is the embedded one,
    which shares the machine: sending costs both sides more than all else that a record does."""
    max_in_flight_bytes: int = Field(default=64 * 2**20, ge=2**20)
    """Published bytes not yet acknowledged; publishing waits beyond this."""
