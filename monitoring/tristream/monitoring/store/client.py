"""What this part uses of a clickhouse-connect client."""

from collections.abc import Sequence
from typing import Any, Protocol


class QueryResult(Protocol):
    """Rows of a query with the names of their columns."""

    result_rows: Sequence[Sequence[Any]]
    column_names: Sequence[str]


class Client(Protocol):
    """What this part uses of a clickhouse-connect client."""

    def query(self, query: str, parameters: dict[str, Any] | None = None) -> QueryResult:
        """Run a SELECT with server-side parameters such as ``{run:String}``."""
        ...

    def command(self, cmd: str, parameters: dict[str, Any] | None = None) -> object:
        """Run a statement without rows."""
        ...

    def insert(
        self, table: str, data: Sequence[Sequence[Any]], column_names: Sequence[str], settings: dict[str, Any]
    ) -> object:
        """Write rows."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...
