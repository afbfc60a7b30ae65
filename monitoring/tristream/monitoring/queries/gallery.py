"""Rollouts for people: the newest, or the best and the worst, with their images, boxes and rewards."""

from typing import Any

from tristream.monitoring.queries.answer_boxes import find_boxes, is_in_pixels
from tristream.monitoring.queries.select import select
from tristream.monitoring.store.client import Client

_NEWEST = """
    SELECT split, eval_step, eval_attempt, number, rollout_index FROM (
        SELECT split, eval_step, eval_attempt, number, rollout_index, source, created FROM (
            SELECT run, split, eval_step, eval_attempt, number, rollout_index, source, created FROM rollouts FINAL
            WHERE run = {run:String} AND ({source:String} = '' OR source = {source:String})
        ) AS r
        INNER JOIN (SELECT DISTINCT split, eval_step, eval_attempt, number, rollout_index FROM rewards
              WHERE run = {run:String}) AS w
        USING (split, eval_step, eval_attempt, number, rollout_index)
        ORDER BY created DESC LIMIT 1 BY split, eval_step, eval_attempt, number
    )
    ORDER BY created DESC LIMIT {per_source:UInt32} BY source LIMIT {limit:UInt32}
"""
_DETAILS = """
    SELECT
        r.split AS split, r.eval_step AS eval_step, r.eval_attempt AS eval_attempt,
        r.number AS number, r.rollout_index AS rollout_index,
        r.source AS source, r.step AS step,
        if(q.text = '' OR r.num_segments > 2, r.prompt_text, replaceAll(q.text, '<image>', '')) AS prompt,
        r.text AS text, r.error AS error, r.ground_truth AS truth,
        r.image_hashes AS image_hashes, r.newest_version AS version, r.finish_reason AS finish_reason,
        r.num_completion_tokens AS num_tokens, r.generate_seconds AS generate_seconds, r.producer AS producer,
        toUnixTimestamp64Milli(r.created) AS created_ms,
        s.reward AS reward, s.fate AS fate, s.metric AS metric, s.metric_value AS metric_value,
        s.components AS components, s.statuses AS statuses, p.params_json AS params_json
    FROM (SELECT * FROM rollouts FINAL
          WHERE run = {run:String} AND (split, eval_step, eval_attempt, number, rollout_index)
              IN {keys:Array(Tuple(String, Int64, Int32, Int64, Int32))}) AS r
    LEFT JOIN (SELECT * FROM scored_rollouts
          WHERE run = {run:String} AND (split, eval_step, eval_attempt, number, rollout_index)
              IN {keys:Array(Tuple(String, Int64, Int32, Int64, Int32))}) AS s
        USING (split, eval_step, eval_attempt, number, rollout_index)
    LEFT JOIN (
          SELECT split, eval_step, eval_attempt, number, rollout_index, max(params_json) AS params_json FROM rewards
          WHERE run = {run:String} AND (split, eval_step, eval_attempt, number, rollout_index)
              IN {keys:Array(Tuple(String, Int64, Int32, Int64, Int32))}
          GROUP BY split, eval_step, eval_attempt, number, rollout_index) AS p
        USING (split, eval_step, eval_attempt, number, rollout_index)
    LEFT JOIN (SELECT split, eval_step, eval_attempt, number, text FROM prompts FINAL
          WHERE run = {run:String} AND (split, eval_step, eval_attempt, number)
              IN (SELECT key.1, key.2, key.3, key.4 FROM
                  (SELECT arrayJoin({keys:Array(Tuple(String, Int64, Int32, Int64, Int32))}) AS key))) AS q
        USING (split, eval_step, eval_attempt, number)
    ORDER BY r.created DESC, r.number DESC, r.rollout_index
"""
_EXTREME = """
    SELECT
        split, eval_step, eval_attempt, number, rollout_index, source,
        row_number() OVER (PARTITION BY source ORDER BY value DESC, number, rollout_index) AS from_best,
        row_number() OVER (PARTITION BY source ORDER BY value, number, rollout_index) AS from_worst
    FROM (
        SELECT split, eval_step, eval_attempt, number, rollout_index, source, ifNull(reward, 0) AS value
        FROM scored_rollouts WHERE run = {run:String} AND is_judged AND fate != '' AND split = {split:String}
            AND (split = 'train' OR (eval_step, eval_attempt) = ({eval_step:Int64}, {eval_attempt:Int32}))
        ORDER BY created DESC LIMIT 200 BY source
    )
    QUALIFY from_best <= {count:UInt32} OR from_worst <= {count:UInt32}
"""
_NEWEST_ROUND = """
    SELECT eval_step, eval_attempt FROM evaluation WHERE run = {run:String} AND is_complete
    ORDER BY eval_step DESC, eval_attempt DESC LIMIT 1
"""
_IMAGE = """
    SELECT media_type, uri, data_base64 FROM images FINAL WHERE run = {run:String} AND sha256 = {sha256:String}
"""
RolloutRowKey = tuple[str, int, int, int, int]
"""Split, evaluation step and attempt, group number and index."""

MAX_TEXT = 4000
"""Characters of a prompt or an answer that people are shown."""


def read_newest_rollouts(client: Client, run: str, source: str = "", limit: int = 24) -> list[dict[str, Any]]:
    """The newest judged rollout of each of the newest groups, of one source or spread over all."""
    per_source = limit if source else max(4, limit // 4)
    rows = select(client, _NEWEST, run=run, source=source, limit=limit, per_source=per_source)
    return _read_details(client, run, [_key(row) for row in rows])


def read_extreme_rollouts(client: Client, run: str, count: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By source, the ``best`` and the ``worst`` rollouts of settled groups by final reward, at most ``count`` of each.

    They are those of the newest complete evaluation round, or while there is none, of the newest training.
    """
    rounds = select(client, _NEWEST_ROUND, run=run)
    split = "eval" if rounds else "train"
    newest = rounds[0] if rounds else {"eval_step": 0, "eval_attempt": 0}
    rows = select(client, _EXTREME, run=run, split=split, count=count, **newest)
    details = {_key(row): row for row in _read_details(client, run, [_key(row) for row in rows])}
    result: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in sorted(rows, key=lambda row: row["from_best"]):
        kind = "best" if row["from_best"] <= row["from_worst"] else "worst"
        result.setdefault(row["source"], {"best": [], "worst": []})[kind].append(details[_key(row)])
    return result


def read_image_row(client: Client, run: str, sha256: str) -> dict[str, Any] | None:
    """Media type, address and base64 data of an image, or None."""
    rows = select(client, _IMAGE, run=run, sha256=sha256)
    return rows[0] if rows else None


def _key(row: dict[str, Any]) -> RolloutRowKey:
    return row["split"], row["eval_step"], row["eval_attempt"], row["number"], row["rollout_index"]


def _read_details(client: Client, run: str, keys: list[RolloutRowKey]) -> list[dict[str, Any]]:
    return [_with_boxes(row) for row in select(client, _DETAILS, run=run, keys=keys)] if keys else []


def _with_boxes(row: dict[str, Any]) -> dict[str, Any]:
    params_json = row.pop("params_json")
    row["predicted_boxes"] = find_boxes(row["text"])
    row["true_boxes"] = find_boxes(row["truth"])
    row["predicted_in_pixels"] = is_in_pixels(params_json)
    for key in ("prompt", "text", "truth"):
        row[key] = row[key][:MAX_TEXT]
    return row
