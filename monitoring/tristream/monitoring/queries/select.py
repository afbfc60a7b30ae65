"""Small helpers to ask the database: rows as dictionaries, values as JSON can carry them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tristream.monitoring.store.client import Client

Rows = list[dict[str, Any]]


def select(client: Client, query: str, **parameters: object) -> Rows:
    """Rows of a query by column name; parameters are bound by the server, as ``{run:String}``."""
    result = client.query(query, parameters)
    # The embedded engine names no columns when there are no rows.
    return [dict(zip(result.column_names, map(plain, row), strict=True)) for row in result.result_rows]


def select_one(client: Client, query: str, **parameters: object) -> dict[str, Any]:
    """The only row of a query that aggregates everything."""
    return select(client, query, **parameters)[0]


def plain(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    """A value as strict JSON can carry it: neither NaN nor infinity, lists and string keys."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    return value
