"""``[metrics]``: what Prometheus asks each part."""

from pydantic import Field

from tristream.config.base import Section


class MetricsSection(Section):
    """What Prometheus asks each part."""

    host: str = "0.0.0.0"
    """Address of ``/metrics``; there are names and numbers on it, and no texts of prompts or answers."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """Port of ``/metrics`` on every part, 0 for a free one, which its status tells; not given: there is no such server.
    Parts of one machine need free ones, so ``tristream up`` takes them whatever it is."""
