"""``[monitoring]``: where metrics go and where people look."""

from pydantic import Field

from tristream.config.base import Section


class MonitoringSection(Section):
    """Where metrics go and where people look."""

    clickhouse_url: str = ""
    """ClickHouse server (``http://user:password@host:8123/database``); empty means embedded."""
    flush_seconds: float = Field(default=1.0, gt=0)
    """Longest time an event waits before it is written."""
    archive: bool = False
    """Keep every record as it was in ``output/id/archive``; ``tristream up`` does if the broker is its own."""
    http_host: str = "127.0.0.1"
    """Address of the live page."""
    http_port: int = Field(default=0, ge=0, le=65535)
    """Port of the live page; 0 means a free one."""
