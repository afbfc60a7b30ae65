"""All that is known of chosen rollouts: texts, images, boxes, what it was worth, and every verdict on it."""

from typing import Any

from tristream.monitoring.queries.answer_boxes import find_boxes, is_in_pixels
from tristream.monitoring.queries.rollout_worths import worths_sql
from tristream.monitoring.queries.select import Rows, select
from tristream.monitoring.store.client import Client

RolloutKey = tuple[str, int, int, int, int]
"""Split, evaluation step and attempt, group number and index."""

MAX_TEXT = 4000
"""Characters of a prompt or an answer in a list."""
MAX_WHOLE_TEXT = 200_000
"""Characters of a prompt or an answer of one rollout."""
MAX_DETAIL = 2000
"""Characters of what a verifier says of an answer."""

_KEYS = (
    "(split, eval_step, eval_attempt, number, rollout_index) IN {keys:Array(Tuple(String, Int64, Int32, Int64, Int32))}"
)
_GROUPS = "(split, eval_step, eval_attempt, number) IN {groups:Array(Tuple(String, Int64, Int32, Int64))}"
_IN_RUN = "run = {run:String} AND "
_ROLLOUTS = f"""
    SELECT
        split, eval_step, eval_attempt, number, rollout_index, source, sample_id, step, group_size,
        prompt_text, text, error, ground_truth AS truth, image_hashes, num_segments, newest_version AS version,
        oldest_version, finish_reason, num_prompt_tokens, num_completion_tokens AS num_tokens, temperature,
        queued_seconds, generate_seconds, producer, toUnixTimestamp64Milli(created) AS created_ms,
        term_ids, term_verifiers, term_versions, term_modes, reward_weights, mean_logprob
    FROM rollouts FINAL WHERE {_IN_RUN}{_KEYS}
"""
_PROMPTS = f"""
    SELECT split, eval_step, eval_attempt, number, replaceAll(text, '<image>', '') AS prompt
    FROM prompts FINAL WHERE {_IN_RUN}{_GROUPS}
"""
_VERDICTS = f"""
    SELECT
        split, eval_step, eval_attempt, number, rollout_index, term_id, verifier, version, mode, status,
        substring(detail, 1, {MAX_DETAIL}) AS detail, components, metrics, params_json, queued_seconds, score_seconds,
        toUnixTimestamp64Milli(created) AS created_ms
    FROM rewards FINAL WHERE {_IN_RUN}{_KEYS} ORDER BY term_id, version
"""
_WORTHS = worths_sql(_IN_RUN + _GROUPS)


def read_details(client: Client, run: str, keys: list[RolloutKey], max_text: int = MAX_TEXT) -> Rows:
    """Rollouts in the order of their keys, without those that are not there, as JSON values.

    ``verdicts`` has what each verifier version said, ``is_active`` where it is the version that the rollout pinned and
    it counts, ``is_shadow`` where it does not count. ``components`` and ``statuses`` are those of the active ones.
    ``reward`` is None until the group is settled, or where the rollout has none; ``fate`` is empty until then.
    """
    if not keys:
        return []
    parameters: dict[str, Any] = {"run": run, "keys": keys, "groups": sorted({key[:4] for key in keys})}
    rows = {_key(row): row for row in select(client, _ROLLOUTS, **parameters)}
    prompts = {_key(row): row["prompt"] for row in select(client, _PROMPTS, **parameters)}
    worths = {_key(row): row for row in select(client, _WORTHS, **parameters)}
    verdicts: dict[tuple[Any, ...], Rows] = {}
    for row in select(client, _VERDICTS, **parameters):
        verdicts.setdefault(_key(row), []).append(row)
    shown = [rows[key] for key in keys if key in rows]
    for row in shown:
        key = _key(row)
        row["prompt"] = _prompt(row, prompts.get(key[:4], ""))
        _add_verdicts(row, verdicts.get(key, []))
        worth = worths.get(key, {})
        row |= {name: worth.get(name) for name in ("reward", "advantage", "age", "at_step")}
        row["fate"], row["reason"] = worth.get("fate", ""), worth.get("reason", "")
        _add_boxes(row, max_text)
    return shown


def read_rollout(client: Client, run: str, key: RolloutKey) -> dict[str, Any] | None:
    """One rollout with its whole text, and ``siblings``: ``rollout_index`` and ``reward`` of its group's."""
    rows = read_details(client, run, [key], MAX_WHOLE_TEXT)
    if not rows:
        return None
    group = select(client, _WORTHS, run=run, groups=[key[:4]])
    rewards = {row["rollout_index"]: row["reward"] for row in group}
    siblings = [{"rollout_index": index, "reward": rewards.get(index)} for index in range(rows[0]["group_size"])]
    return rows[0] | {"siblings": siblings}


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("split", "eval_step", "eval_attempt", "number", "rollout_index")
    return tuple(row[name] for name in names if name in row)


def _prompt(row: dict[str, Any], prompt: str) -> str:
    """What was asked; of several turns the whole conversation before the last answer."""
    is_whole = row.pop("num_segments") > 2
    spoken: str = row.pop("prompt_text")
    return spoken if is_whole or not prompt else prompt


def _add_verdicts(row: dict[str, Any], verdicts: Rows) -> None:
    names = ("term_ids", "term_verifiers", "term_versions", "term_modes")
    terms = list(zip(*(row.pop(name) for name in names), strict=True))
    pinned = {term_id: (version, mode) for term_id, _, version, mode in terms}
    row["components"], row["statuses"] = {}, {}
    for verdict in verdicts:
        for name in ("split", "eval_step", "eval_attempt", "number", "rollout_index"):
            del verdict[name]
        version, mode = pinned.get(verdict["term_id"], ("", ""))
        is_pinned = verdict["version"] == version
        verdict["is_active"] = is_pinned and mode != "shadow"
        verdict["is_shadow"] = (mode if is_pinned else verdict["mode"]) == "shadow"
        if verdict["is_active"]:
            row["statuses"][verdict["term_id"]] = verdict["status"]
            row["components"] |= {
                f"{verdict['term_id']}.{name}": value for name, value in verdict["components"].items()
            }
    said = {(verdict["term_id"], verdict["version"]) for verdict in verdicts}
    row["verdicts"] = sorted(verdicts, key=lambda verdict: not verdict["is_active"])
    row["awaited"] = [
        {"term_id": term_id, "verifier": verifier, "version": version, "mode": mode}
        for term_id, verifier, version, mode in terms
        if (term_id, version) not in said
    ]


def _add_boxes(row: dict[str, Any], max_text: int) -> None:
    row["predicted_boxes"] = find_boxes(row["text"])
    row["true_boxes"] = find_boxes(row["truth"])
    row["predicted_in_pixels"] = any(is_in_pixels(verdict["params_json"]) for verdict in row["verdicts"])
    for name in ("prompt", "text", "truth"):
        row[name] = row[name][:max_text]
