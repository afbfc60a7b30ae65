"""What Grafana and the ClickHouse plugin make of a query before the database sees it."""

import re
from collections.abc import Mapping, Sequence

FROM_SECONDS, TO_SECONDS = 1_600_000_000, 4_000_000_000
INTERVAL_SECONDS = 10


def expand(sql: str, values: Mapping[str, Sequence[str]]) -> str:
    """Grafana's ``${name:sqlstring}``, then the macros of the plugin (its ``pkg/macros/macros.go``)."""

    def quote(match: re.Match[str]) -> str:
        return ",".join("'" + value.replace("'", "''") + "'" for value in values[match[1]])

    sql = re.sub(r"\$\{(\w+):sqlstring\}", quote, sql)
    sql = re.sub(
        r"\$__timeFilter\((\w+)\)", rf"\1 >= toDateTime({FROM_SECONDS}) AND \1 <= toDateTime({TO_SECONDS})", sql
    )
    sql = re.sub(
        r"\$__timeInterval\((\w+)\)", rf"toStartOfInterval(toDateTime(\1), INTERVAL {INTERVAL_SECONDS} second)", sql
    )
    sql = sql.replace("$__interval_s", str(INTERVAL_SECONDS))
    assert "$" not in sql, "a macro or a variable is unknown"
    return sql
