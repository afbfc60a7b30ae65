"""``[monitoring]``: where metrics go and where people look."""

from pydantic import Field

from tristream.config.base import Section


class MonitoringSection(Section):
    """Where metrics go and where people look."""

    clickhouse_url: str = ""
    """ClickHouse server (``http://user:password@host:8123/database``); empty means embedded."""
    clickhouse_cluster: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")
    """Name of the server's cluster on whose replicas each table is kept; empty: on that server alone."""
    keep_texts_days: int = Field(default=0, ge=0)
    """So long the database keeps prompts, answers and remarks of verifiers, of all its runs; figures stay. 0 means for
    ever, unless another run of the database says a time."""
    flush_seconds: float = Field(default=1.0, gt=0)
    """Longest time an event waits before it is written while somebody looks; nobody looking, five seconds."""
    archive: bool = False
    """Keep every record as it was in ``output/id/archive``; ``tristream up`` does if the broker is its own."""
    http_host: str = "127.0.0.1"
    """Address of the live page."""
    http_port: int = Field(default=0, ge=0, le=65535)
    """Port of the live page; 0 means a free one."""
    query_port: int = Field(default=0, ge=0, le=65535)
    """Port of read-only queries over ClickHouse's HTTP protocol, on ``http_host``; 0 means a free one. There is none
    beside ``clickhouse_url``, whose server answers queries itself."""
