"""Annotations of every dashboard: what changed while a run went on.

What happens at each step is thinned to about a hundred marks in the time range, so that a long run stays readable.
"""

from tristream.monitoring.grafana.panels import DATASOURCE, Json, make_target
from tristream.monitoring.grafana.variables import RUN, SOURCES

MAX_MARKS = 100

_THINNED = f"WHERE number % greatest(1, intDiv(total, {MAX_MARKS})) = 0 ORDER BY time"

_POLICY = f"""SELECT time, concat('policy version ', toString(version)) AS text, 'policy' AS tags
FROM (
    SELECT created AS time, version, row_number() OVER (ORDER BY version) - 1 AS number, count() OVER () AS total
    FROM policy FINAL WHERE {RUN} AND $__timeFilter(created)
) {_THINNED}"""

_CHECKPOINTS = f"""SELECT time, concat('checkpoint of step ', toString(durable_step)) AS text, 'checkpoint' AS tags
FROM (
    SELECT min(created) AS time, durable_step, row_number() OVER (ORDER BY durable_step) - 1 AS number,
        count() OVER () AS total
    FROM policy FINAL WHERE {RUN} AND durable_step > 0 AND $__timeFilter(created) GROUP BY durable_step
) {_THINNED}"""

_THRESHOLDS = f"""SELECT created AS time,
    concat(source, ': ', verifier, '@', version, ' judges at ', toString(round(threshold, 3)), ', before at ',
        toString(round(threshold_before, 3))) AS text, 'threshold' AS tags
FROM (
    SELECT created, source, verifier, version, threshold, lagInFrame(threshold) OVER (
        PARTITION BY source, verifier, version ORDER BY step ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
    ) AS threshold_before
    FROM verifier_steps WHERE {SOURCES} AND mode != 'shadow' AND threshold IS NOT NULL
)
WHERE abs(threshold - threshold_before) > 1e-3 AND $__timeFilter(created) ORDER BY time"""

_VERIFIER_KINDS = "('add', 'promote', 'demote', 'retire')"


def _changes(condition: str) -> str:
    return f"""SELECT created AS time, concat(text, if(reason = '', '', concat(': ', reason))) AS text, kind AS tags
FROM run_changes WHERE {RUN} AND {condition} AND $__timeFilter(created) ORDER BY time"""


def all_annotations() -> list[Json]:
    """Policy versions, checkpoints, threshold steps, promotions of verifiers, and other commands."""
    return [
        _annotation("Policy versions", "blue", _POLICY, is_enabled=False),
        _annotation("Checkpoints", "green", _CHECKPOINTS, is_enabled=False),
        _annotation("Threshold steps", "red", _THRESHOLDS),
        _annotation("Promotions", "purple", _changes(f"kind IN {_VERIFIER_KINDS}")),
        _annotation("Commands", "orange", _changes(f"kind NOT IN {_VERIFIER_KINDS}")),
    ]


def _annotation(name: str, color: str, sql: str, *, is_enabled: bool = True) -> Json:
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": is_enabled,
        "iconColor": color,
        "target": make_target(sql, is_time_series=False),
    }
