"""How each source fares: which of its newest groups were dropped and why, how many were answered all wrong, pauses."""

from typing import Any

from tristream.config.parts import MonitorSettings
from tristream.monitoring.queries.select import Rows, select, select_one
from tristream.monitoring.store.client import Client

NUM_GROUPS = 64
"""So many of the newest settled groups of a source are looked at."""
MIN_WINDOW, WINDOW_PER_SOURCE = 1024, 256
"""Among so many of the newest groups of all sources they are looked for."""
MAX_TEXT = 400
"""Characters of a question, an answer or a truth."""

# Only the newest numbers are looked at, whatever the length of the run. A trained group is known from its step
# before its outcome is there. A drop that is older than its prompt is void: its group was dispatched again.
_NEWEST = "SELECT max(number) AS newest FROM prompts WHERE run = {run:String} AND split = 'train'"
_NEWEST_FATES = """
    SELECT source, number, newest.1 AS fate, newest.2 AS reason, newest.3 AS is_all_wrong FROM (
        SELECT number, argMax((fate, reason, is_all_wrong), created) AS newest FROM (
            SELECT
                number, fate, reason, created,
                has_zero_variance
                    AND arrayMax(arrayFilter((reward, is_valid) -> is_valid, rewards, valid)) <= 0 AS is_all_wrong
            FROM outcomes FINAL
            WHERE run = {run:String} AND split = 'train' AND number >= {low:Int64}
            UNION ALL
            SELECT DISTINCT number, 'trained' AS fate, '' AS reason, created, 0 AS is_all_wrong
            FROM (
                SELECT numbers, created FROM steps FINAL
                WHERE run = {run:String} AND step > (SELECT max(step) - 64 FROM steps WHERE run = {run:String})
            )
            ARRAY JOIN numbers AS number WHERE number >= {low:Int64}
        ) AS f
        LEFT JOIN (
            SELECT number, created AS prompt_created FROM prompts FINAL
            WHERE run = {run:String} AND split = 'train' AND number >= {low:Int64}
        ) AS p USING (number)
        WHERE fate != 'dropped' OR created >= prompt_created
        GROUP BY number
    ) AS n
    INNER JOIN (
        SELECT number, source FROM prompts FINAL
        WHERE run = {run:String} AND split = 'train' AND number >= {low:Int64}
    ) AS s USING (number)
"""
_FATES = f"""
    SELECT
        source, count() AS num_groups, countIf(is_all_wrong) AS num_all_wrong,
        sumMap(map(reason, toUInt64(fate = 'dropped'))) AS counts,
        mapFilter((name, number) -> number > 0, counts) AS dropped,
        maxOrNullIf((is_all_wrong, number), fate = 'dropped') AS worst
    FROM (SELECT * FROM ({_NEWEST_FATES}) ORDER BY number DESC LIMIT {{num_groups:UInt32}} BY source)
    GROUP BY source
"""
_PAUSES = """
    SELECT kind, sources, reason FROM commands FINAL
    WHERE run = {run:String} AND kind IN ('pause_source', 'resume_source') AND refusal = ''
    ORDER BY created, rank DESC
"""
_DISPATCHER = """
    SELECT measures FROM part_states WHERE run = {run:String} AND part = 'dispatcher' ORDER BY started DESC LIMIT 1
"""
# A rollout without an answer is looked at too: its error says why there is none.
_ANSWERS = """
    SELECT number, replaceAll(p.text, '<image>', '') AS prompt, r.text AS text, error, truth
    FROM (
        SELECT number, rollout_index, text, error, ground_truth AS truth FROM rollouts FINAL
        WHERE run = {run:String} AND split = 'train' AND number IN {numbers:Array(Int64)}
    ) AS r
    LEFT JOIN (
        SELECT number, text FROM prompts FINAL
        WHERE run = {run:String} AND split = 'train' AND number IN {numbers:Array(Int64)}
    ) AS p USING (number)
    ORDER BY number, rollout_index LIMIT 1 BY number
"""


def read_sources(client: Client, settings: MonitorSettings) -> Rows:
    """A row a source of the run, as JSON values.

    ``num_groups`` newest settled groups are looked at, at most ``NUM_GROUPS``: ``dropped`` says how many of them were
    dropped by reason, and ``num_all_wrong`` how many had only answers without any reward. ``answer`` is one answer to a
    dropped group (``prompt``, ``text``, ``error``, ``truth``), or None; ``paused`` why the source is paused, or empty.
    """
    run = settings.run.id
    names = [source.name for source in settings.sources]
    low = select_one(client, _NEWEST, run=run)["newest"] - max(MIN_WINDOW, WINDOW_PER_SOURCE * len(names))
    fates = {row["source"]: row for row in select(client, _FATES, run=run, low=low, num_groups=NUM_GROUPS)}
    worst = {name: row["worst"][1] for name, row in fates.items() if row["worst"]}
    answers = _read_answers(client, run, sorted(worst.values()))
    paused = _read_pauses(client, run, names)
    return [
        {
            "source": name,
            "num_groups": fates.get(name, {}).get("num_groups", 0),
            "num_all_wrong": fates.get(name, {}).get("num_all_wrong", 0),
            "dropped": fates.get(name, {}).get("dropped", {}),
            "answer": answers.get(worst.get(name, -1)),
            "paused": paused.get(name, ""),
        }
        for name in names
    ]


def _read_pauses(client: Client, run: str, names: list[str]) -> dict[str, str]:
    """Why each source is paused, of those that are: as the dispatcher says, with the reason of the newest command."""
    paused: dict[str, str] = {}
    for row in select(client, _PAUSES, run=run):
        for name in row["sources"] or names:
            if row["kind"] == "pause_source":
                paused[name] = row["reason"] or "paused by command"
            else:
                paused.pop(name, None)
    for row in select(client, _DISPATCHER, run=run):
        said = {name: row["measures"][f"paused/{name}"] for name in names if f"paused/{name}" in row["measures"]}
        paused = {name: reason for name, reason in paused.items() if said.get(name, 1.0)}
        paused |= {name: "paused" for name, is_paused in said.items() if is_paused and name not in paused}
    return paused


def _read_answers(client: Client, run: str, numbers: list[int]) -> dict[int, dict[str, Any]]:
    """An answer to each of these groups that has any, by number."""
    rows = select(client, _ANSWERS, run=run, numbers=numbers) if numbers else []
    return {
        row["number"]: {key: value[:MAX_TEXT] if isinstance(value, str) else value for key, value in row.items()}
        for row in rows
    }
