"""How each source fares: which of its newest groups were dropped and why, how many were answered all wrong, pauses."""

from typing import Any

from tristream.config.parts import MonitorSettings
from tristream.monitoring.queries.select import Rows, select
from tristream.monitoring.store.client import Client

NUM_GROUPS = 64
"""So many of the newest settled groups of a source are looked at."""
MAX_TEXT = 400
"""Characters of a question, an answer or a truth."""

_FATES = """
    SELECT
        source, count() AS num_groups, countIf(is_all_wrong) AS num_all_wrong,
        sumMap(map(reason, toUInt64(fate = 'dropped'))) AS counts,
        mapFilter((name, number) -> number > 0, counts) AS dropped
    FROM (
        SELECT source, number, fate, reason, is_all_wrong FROM newest_fates
        WHERE run = {run:String} ORDER BY number DESC LIMIT {num_groups:UInt32} BY source
    )
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
_ANSWER = """
    SELECT number, replaceAll(p.text, '<image>', '') AS prompt, r.text AS text, error, truth
    FROM (
        SELECT number, rollout_index, text, error, ground_truth AS truth FROM rollouts FINAL
        WHERE run = {run:String} AND split = 'train' AND number IN (
            SELECT number FROM newest_fates WHERE run = {run:String} AND source = {source:String} AND fate = 'dropped'
            ORDER BY is_all_wrong DESC, number DESC LIMIT 1
        )
    ) AS r
    LEFT JOIN (SELECT number, text FROM prompts FINAL WHERE run = {run:String} AND split = 'train') AS p USING (number)
    ORDER BY rollout_index LIMIT 1
"""


def read_sources(client: Client, settings: MonitorSettings) -> Rows:
    """A row a source of the run, as JSON values.

    ``num_groups`` newest settled groups are looked at, at most ``NUM_GROUPS``: ``dropped`` says how many of them were
    dropped by reason, and ``num_all_wrong`` how many had only answers without any reward. ``answer`` is one answer to a
    dropped group (``prompt``, ``text``, ``error``, ``truth``), or None; ``paused`` why the source is paused, or empty.
    """
    run = settings.run.id
    fates = {row["source"]: row for row in select(client, _FATES, run=run, num_groups=NUM_GROUPS)}
    names = [source.name for source in settings.sources]
    paused = _read_pauses(client, run, names)
    return [
        {
            "source": name,
            "num_groups": fates.get(name, {}).get("num_groups", 0),
            "num_all_wrong": fates.get(name, {}).get("num_all_wrong", 0),
            "dropped": fates.get(name, {}).get("dropped", {}),
            "answer": _read_answer(client, run, name) if fates.get(name, {}).get("dropped") else None,
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


def _read_answer(client: Client, run: str, source: str) -> dict[str, Any] | None:
    rows = select(client, _ANSWER, run=run, source=source)
    if not rows:
        return None
    return {key: value[:MAX_TEXT] if isinstance(value, str) else value for key, value in rows[0].items()}
