"""Rollouts to look at in a report, the best and the worst, and their images."""

from typing import Any

from tristream.monitoring.queries.rollout_details import RolloutKey, read_details
from tristream.monitoring.queries.rollout_worths import worths_sql
from tristream.monitoring.queries.select import select
from tristream.monitoring.store.client import Client

NUM_NEWEST_GROUPS = 2048
"""So many of the newest training groups are looked at while there is no round of evaluation."""

_RANGE = """
    run = {run:String} AND split = {split:String} AND eval_step = {eval_step:Int64}
    AND eval_attempt = {eval_attempt:Int32} AND number >= {low:Int64}
"""
_EXTREME = f"""
    SELECT
        split, eval_step, eval_attempt, number, rollout_index, source,
        row_number() OVER (PARTITION BY source ORDER BY value DESC, number, rollout_index) AS from_best,
        row_number() OVER (PARTITION BY source ORDER BY value, number, rollout_index) AS from_worst
    FROM (
        SELECT split, eval_step, eval_attempt, number, rollout_index, source, created, ifNull(reward, 0) AS value
        FROM (SELECT * FROM rollouts FINAL WHERE {_RANGE}) AS r
        INNER JOIN ({worths_sql(_RANGE)}) AS o USING (split, eval_step, eval_attempt, number, rollout_index)
        WHERE (number, rollout_index) IN (SELECT number, rollout_index FROM rewards WHERE {_RANGE})
        ORDER BY created DESC LIMIT 200 BY source
    )
    QUALIFY from_best <= {{count:UInt32}} OR from_worst <= {{count:UInt32}}
"""
_NEWEST_ROUND = """
    SELECT eval_step, eval_attempt FROM evaluation WHERE run = {run:String} AND is_complete
    ORDER BY eval_step DESC, eval_attempt DESC LIMIT 1
"""
_NEWEST_GROUP = "SELECT max(number) AS newest FROM rollouts WHERE run = {run:String} AND split = 'train'"
_IMAGE = """
    SELECT media_type, uri, data_base64 FROM images FINAL WHERE run = {run:String} AND sha256 = {sha256:String}
"""


def read_extreme_rollouts(client: Client, run: str, count: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By source, the ``best`` and the ``worst`` rollouts of settled groups by final reward, at most ``count`` of each.

    They are those of the newest complete evaluation round, or while there is none, of the newest training.
    """
    rounds = select(client, _NEWEST_ROUND, run=run)
    if rounds:
        place = {"split": "eval", "low": 0, **rounds[0]}
    else:
        newest = select(client, _NEWEST_GROUP, run=run)[0]["newest"]
        place = {"split": "train", "low": newest - NUM_NEWEST_GROUPS, "eval_step": 0, "eval_attempt": 0}
    rows = select(client, _EXTREME, run=run, count=count, **place)
    details = {_key(row): row for row in read_details(client, run, [_key(row) for row in rows])}
    result: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in sorted(rows, key=lambda row: row["from_best"]):
        kind = "best" if row["from_best"] <= row["from_worst"] else "worst"
        result.setdefault(row["source"], {"best": [], "worst": []})[kind].append(details[_key(row)])
    return result


def read_image_row(client: Client, run: str, sha256: str) -> dict[str, Any] | None:
    """Media type, address and base64 data of an image, or None."""
    rows = select(client, _IMAGE, run=run, sha256=sha256)
    return rows[0] if rows else None


def _key(row: dict[str, Any]) -> RolloutKey:
    return row["split"], row["eval_step"], row["eval_attempt"], row["number"], row["rollout_index"]
