"""A run in numbers: what ``summary.json`` needs, read from the events."""

from typing import Any

from tristream.monitoring.queries.select import select, select_one
from tristream.monitoring.store.client import Client
from tristream.wire.topics import ALL_TOPICS

_SOURCES = """
    SELECT s.source AS source, s.metric AS metric, e.eval_before AS eval_before, e.eval_after AS eval_after
    FROM (SELECT source, metric, position FROM sources FINAL WHERE run = {run:String}) AS s
    LEFT JOIN (
        SELECT
            source,
            maxOrNullIf(value, eval_step = 0) AS eval_before,
            argMaxOrNull(value, eval_step) AS eval_after
        FROM evaluation WHERE run = {run:String} AND is_complete GROUP BY source
    ) AS e ON e.source = s.source
    ORDER BY s.position
"""
_HELD_OUT = """
    SELECT s.source AS source, entry.1 AS name,
        avgOrNullIf(entry.2, s.eval_step = 0) AS eval_before,
        avgOrNullIf(entry.2, s.eval_step = last_step) AS eval_after
    FROM (
        SELECT source, eval_step, eval_attempt,
            mapUpdate(shadow_components, mapFilter((name, _) -> has(w.names, name), components)) AS all_components
        FROM (SELECT * FROM rollout_scores WHERE run = {run:String} AND split = 'eval') AS r
        LEFT JOIN (
            SELECT source AS weighted_source, groupUniqArrayArray(mapKeys(reward_weights)) AS names
            FROM rollouts FINAL WHERE run = {run:String} GROUP BY source
        ) AS w ON w.weighted_source = r.source
    ) AS s
    ARRAY JOIN arrayZip(mapKeys(all_components), mapValues(all_components)) AS entry
    INNER JOIN (
        SELECT source, eval_step, eval_attempt, max(eval_step) OVER (PARTITION BY source) AS last_step
        FROM evaluation WHERE run = {run:String} AND is_complete
    ) AS e ON e.source = s.source AND e.eval_step = s.eval_step AND e.eval_attempt = s.eval_attempt
    GROUP BY source, name ORDER BY source, name
"""
_STEPS = "SELECT max(step) AS steps FROM steps WHERE run = {run:String}"
_PHASES = """
    SELECT mapFilter((name, seconds) -> seconds > 0, sumMap(phase_seconds)) AS phases
    FROM steps FINAL WHERE run = {run:String}
"""

# A record that several parts gave up, or one part twice, is one; rows that were left out are no records of the log.
_DEAD_LETTERS = """
    SELECT topic, any(error) AS reason, uniqExact(log_partition, log_offset) AS number
    FROM dead_letters WHERE run = {run:String} AND topic IN {topics:Array(String)}
    GROUP BY topic, substring(error, 1, 80) ORDER BY number DESC, topic, reason
"""
_NUM_DEAD_LETTERS = """
    SELECT uniqExact(topic, log_partition, log_offset) AS n
    FROM dead_letters WHERE run = {run:String} AND topic IN {topics:Array(String)}
"""
_SKIPPED_ROWS = """
    SELECT any(record_key) AS source, topic AS file, log_offset AS row, any(error) AS reason
    FROM dead_letters WHERE run = {run:String} AND part = 'dispatcher' AND topic NOT IN {topics:Array(String)}
    GROUP BY topic, log_offset ORDER BY source, file, row
"""
_PAUSES = """
    SELECT sources, from_number, reason FROM commands FINAL
    WHERE run = {run:String} AND kind = 'pause_source' AND refusal = '' ORDER BY created, from_number
"""

_VERIFIER_CHANGES = """
    SELECT kind, verifier, version, sources, weights, from_number, text FROM run_changes
    WHERE run = {run:String} AND verifier != '' ORDER BY created, from_number
"""

MAX_NAMED = 200
"""Rows, reasons and pauses that are named."""


def read_summary(client: Client, run: str) -> dict[str, Any]:
    """Steps done, evaluation of each source before and after, what was given up, and the learner's seconds by phase.

    ``verifier_changes`` says what was commanded of verifiers, in order (``kind``, ``verifier``, ``version``,
    ``sources``, ``weights``, ``from_number``, ``text``).

    Only complete evaluation rounds count; a number is None while there is no such round. ``components`` of a source
    has, by ``TERM.COMPONENT``, the same of each component that counts or is a shadow's, over the rollouts that have it.
    """
    sources = {
        row["source"]: {key: row[key] for key in ("metric", "eval_before", "eval_after")}
        for row in select(client, _SOURCES, run=run)
    }
    for facts in sources.values():
        facts["components"] = {}
    for row in select(client, _HELD_OUT, run=run):
        numbers = {key: row[key] for key in ("eval_before", "eval_after")}
        sources[row["source"]]["components"][row["name"]] = numbers
    return {
        "steps": select_one(client, _STEPS, run=run)["steps"],
        "sources": sources,
        "verifier_changes": select(client, _VERIFIER_CHANGES, run=run)[:MAX_NAMED],
        "lost": read_lost(client, run),
        "phases": select_one(client, _PHASES, run=run)["phases"],
    }


def read_lost(client: Client, run: str) -> dict[str, Any]:
    """What did not become part of the run.

    ``dead_letters`` counts records that some part could not use, ``dead_letters_by_reason`` says which (``topic``,
    ``reason``, ``number``), ``skipped_rows`` the rows of sources that were left out (``source``, ``file``, ``row``,
    ``reason``), ``pauses`` when sources were paused (``sources``, ``from_number``, ``reason``).
    """
    names = [topic.name for topic in ALL_TOPICS]
    skipped = select(client, _SKIPPED_ROWS, run=run, topics=names)
    return {
        "dead_letters": select_one(client, _NUM_DEAD_LETTERS, run=run, topics=names)["n"],
        "dead_letters_by_reason": select(client, _DEAD_LETTERS, run=run, topics=names)[:MAX_NAMED],
        "num_skipped_rows": len(skipped),
        "skipped_rows": skipped[:MAX_NAMED],
        "pauses": select(client, _PAUSES, run=run)[:MAX_NAMED],
    }
