"""Alert rules as values: what is asked, when it is wrong, and what to do then.

Each query gives one row for each run and thing that it watches, wrong or not, with one number; what is over the limit
fires and what falls below it clears. Runs that are done, or that nobody has heard of for an hour, are not watched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LIVE = "run IN (SELECT run FROM parts FINAL GROUP BY run HAVING max(created) > now() - INTERVAL 1 HOUR)"
"""Runs that have told of themselves within an hour."""

_NEWEST_STEPS = f"""(
    SELECT *, row_number() OVER (PARTITION BY run, source ORDER BY step DESC) AS back
    FROM source_groups WHERE {LIVE} AND created > now() - INTERVAL 7 DAY
)"""
"""Steps of each source, the newest with ``back`` 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One rule."""

    uid: str
    title: str
    summary: str
    """One line of a message, with Grafana's ``{{ $labels.run }}`` and ``{{ $values.A }}``."""
    meaning: str
    """What is wrong when it fires, in sentences."""
    remedies: Sequence[str]
    """What to look at and to do, in order."""
    sql: str
    metrics: Sequence[str] = ()
    """Metrics of the registry that it watches."""
    is_wrong: Literal["gt", "lt"] = "gt"
    """Whether values above or below the limit are wrong."""
    limit: float
    wait: str = "5m"
    """How long it must be wrong before anybody is told, as Grafana writes it."""
    severity: Literal["critical", "warning"] = "warning"


SOURCE_FALLS = Alert(
    uid="tristream-source-falls",
    title="A source falls",
    summary="{{ $labels.source }} of run {{ $labels.run }} lost {{ humanize $values.A.Value }} of its reward",
    meaning="The mean reward of all judged rollouts of a source, over its newest 5 steps, is lower than over the 20"
    " steps before by more than 0.1, and by more than twice their standard deviation.",
    remedies=(
        "Ask what changed: `tristream why RUN STEP --source SOURCE` ranks the causes by the share that each explains.",
        "Where a threshold or a verifier changed, the policy is not worse: compare the held-out metric.",
        "Where the policy fell: gradient norm, KL and staleness at that step; go on from a checkpoint before it.",
    ),
    metrics=("judged_reward",),
    sql=f"""SELECT run, source, if(fall > 2 * spread, fall, 0) AS value
FROM (
    SELECT run, source, avgIf(judged_reward, back > 5) - avgIf(judged_reward, back <= 5) AS fall,
        stddevSampIf(judged_reward, back > 5) AS spread
    FROM {_NEWEST_STEPS} WHERE back <= 25 GROUP BY run, source HAVING countIf(back > 5) >= 10
)""",
    limit=0.1,
    wait="10m",
)

COVERAGE = Alert(
    uid="tristream-coverage",
    title="Rollouts without a reward",
    summary="only {{ humanizePercentage $values.A.Value }} of the rollouts of {{ $labels.source }} in run"
    " {{ $labels.run }} have a reward",
    meaning="Less than 95 % of the rollouts in the judged groups of a source, over its newest 5 steps, have a reward."
    " The others timed out, failed or cannot be scored: what is shown of the source is true of the rest only.",
    remedies=(
        "The pipeline dashboard tells which verifier version does not score; the live page has the reasons.",
        "Timeouts: more verifier processes, or a longer `timeout_seconds`. Errors: the verifier's log.",
        "Unscorable: truths or parameters that the verifier refuses; `tristream verifiers try` shows them beforehand.",
    ),
    metrics=("coverage",),
    sql=f"""SELECT run, source, sum(coverage * num_rollouts) / sum(num_rollouts) AS value
FROM {_NEWEST_STEPS} WHERE back <= 5 AND num_rollouts > 0 GROUP BY run, source""",
    is_wrong="lt",
    limit=0.95,
)

VERIFIER_ERRORS = Alert(
    uid="tristream-verifier-errors",
    title="A verifier fails",
    summary="{{ $labels.verifier }}@{{ $labels.version }} fails on {{ humanizePercentage $values.A.Value }} of what"
    " it scores in run {{ $labels.run }}",
    meaning="Over 5 % of the rewards that a verifier version gave in the last 10 minutes are timeouts or errors.",
    remedies=(
        "`tristream verifiers list` tells who serves it; the log of that process has the first error in full.",
        "One that counts can be taken out of the reward while the run goes on: `tristream verifiers demote`.",
        "One that depends on a service: is the service up, and does the network policy let the verifier reach it?",
    ),
    metrics=("num_timeout", "num_error"),
    sql=f"""SELECT run, verifier, version, sum(num_timeout + num_error) / sum(num_rewards) AS value
FROM verifier_minutes WHERE {LIVE} AND minute > now() - INTERVAL 10 MINUTE GROUP BY run, verifier, version""",
    limit=0.05,
)

STALL = Alert(
    uid="tristream-stall",
    title="A run stalls",
    summary="run {{ $labels.run }} has finished no step for {{ humanize $values.A.Value }} times as long as is usual",
    meaning="A run that is not done has reported no step for over five times the median of its last 20 steps, and for"
    " at least 5 minutes; before its first step, for half an hour.",
    remedies=(
        "The table of parts on the pipeline dashboard tells what each process waits for, and which is silent.",
        "Follow the stream: the first part that waits for nothing and does nothing is at fault; its log says why.",
        "All groups dropped: see solved by all, solved by none and stale groups of each source.",
    ),
    metrics=("step_seconds",),
    sql=f"""SELECT run, seconds_since / greatest(300, if(num_steps > 0, 5 * usual_seconds, 1800)) AS value
FROM (
    SELECT s.run AS run, dateDiff('second', greatest(s.began, t.last_step), now()) AS seconds_since,
        t.num_steps AS num_steps, t.usual_seconds AS usual_seconds, t.is_finished AS is_finished
    FROM (SELECT run, max(created) AS began FROM sources GROUP BY run) AS s
    LEFT JOIN (
        SELECT run, max(created) AS last_step, count() AS num_steps, max(is_last) AS is_finished,
            medianIf(seconds, back <= 20) AS usual_seconds
        FROM (
            SELECT t.run AS run, t.created AS created, t.seconds AS seconds, d.step >= d.total_steps AS is_last,
                row_number() OVER (PARTITION BY t.run ORDER BY t.step DESC) AS back
            FROM step_times AS t
            INNER JOIN (SELECT run, step, max(total_steps) AS total_steps FROM steps GROUP BY run, step) AS d
                ON d.run = t.run AND d.step = t.step
        ) GROUP BY run
    ) AS t ON t.run = s.run
)
WHERE {LIVE} AND NOT is_finished AND run NOT IN (
    SELECT run FROM parts FINAL WHERE part = 'learner' GROUP BY run HAVING argMax(state, created) = 'done'
)""",
    limit=1,
    wait="1m",
    severity="critical",
)

STALENESS = Alert(
    uid="tristream-staleness",
    title="Groups grow stale",
    summary="{{ humanizePercentage $values.A.Value }} of the groups of run {{ $labels.run }} are dropped for their age",
    meaning="Over 10 % of the groups that were trained or dropped in the last 30 minutes were dropped because a rollout"
    " was older than `rollout.max_staleness` allows: work that is thrown away.",
    remedies=(
        "Producers run too far ahead or take new weights too late: the table of parts shows the version of each.",
        "Fewer groups at once in each producer, or more staleness allowed, with an algorithm that corrects for it.",
    ),
    metrics=("dropped_groups", "mean_age"),
    sql=f"""SELECT run, stale / (stale + trained) AS value
FROM (
    SELECT run, sum(num_stale) AS stale, sum(num_trained) AS trained
    FROM (
        SELECT run, uniqExact(number) AS num_stale, 0 AS num_trained FROM outcomes
        WHERE {LIVE} AND split = 'train' AND fate = 'dropped' AND reason = 'stale'
            AND created > now() - INTERVAL 30 MINUTE
        GROUP BY run
        UNION ALL
        SELECT run, 0 AS num_stale, sum(num_groups) AS num_trained FROM steps FINAL
        WHERE {LIVE} AND created > now() - INTERVAL 30 MINUTE GROUP BY run
    )
    GROUP BY run
)
WHERE stale + trained > 0""",
    limit=0.1,
    wait="10m",
)

LAG = Alert(
    uid="tristream-lag",
    title="A process lags",
    summary="{{ $labels.instance }} ({{ $labels.part }}) of run {{ $labels.run }} has {{ humanize $values.A.Value }}"
    " records yet to read ({{ $labels.topic }})",
    meaning="A process of a live run has over 10,000 records of a topic yet to read, for 10 minutes.",
    remedies=(
        "A verifier: more processes of it; the pipeline dashboard shows its scoring time.",
        "The monitor: the database takes rows slowly; its status says what it waits for. Training goes on.",
        "The assembler: it reads rollouts and rewards of all sources; is its CPU core busy?",
    ),
    metrics=("lag_records",),
    sql=f"""SELECT run, part, instance, replaceOne(measure, 'lag_', '') AS topic, toFloat64(amount) AS value
FROM part_states ARRAY JOIN mapKeys(measures) AS measure, mapValues(measures) AS amount
WHERE {LIVE} AND startsWith(measure, 'lag_') AND state NOT IN ('done', 'silent')""",
    limit=10_000,
    wait="10m",
)

DEAD_LETTERS = Alert(
    uid="tristream-dead-letters",
    title="Records that cannot be read",
    summary="{{ $labels.part }} of run {{ $labels.run }} could not read {{ humanize $values.A.Value }} records of"
    " {{ $labels.topic }}",
    meaning="A part put records aside in the last 15 minutes because it could not read or write them. Their groups may"
    " wait in vain, and are dropped as incomplete.",
    remedies=(
        "The pipeline dashboard lists the newest with the reason.",
        "Records of another version: parts of two versions of tristream share a log. Update all of them.",
        "Rows that the database refuses: the reason is the database's own.",
    ),
    metrics=("dead_letters",),
    sql=f"""SELECT run, part, topic, toFloat64(countIf(created > now() - INTERVAL 15 MINUTE)) AS value
FROM dead_letters FINAL WHERE {LIVE} GROUP BY run, part, topic""",
    limit=0,
    wait="0s",
)

ALL_WRONG = Alert(
    uid="tristream-all-wrong",
    title="Nobody solves a source",
    summary="{{ humanizePercentage $values.A.Value }} of the groups of {{ $labels.source }} in run {{ $labels.run }}"
    " have no right answer",
    meaning="In over 80 % of the whole judged groups of a source, over its newest 5 steps, no answer has any reward:"
    " they cost as much as others and teach nothing.",
    remedies=(
        "Look at the answers on the live page: are they wrong, or does the verifier not read their form?",
        "A form that the policy has not learnt yet needs a warm start, or a reward of its own beside the content.",
        "Tasks that are too hard: easier rows first, more answers a group, or a smaller weight of the source.",
    ),
    metrics=("solve_none_share",),
    sql=f"""SELECT run, source, sum(solve_none_share * num_groups) / sum(num_groups) AS value
FROM {_NEWEST_STEPS} WHERE back <= 5 AND num_groups > 0 GROUP BY run, source""",
    limit=0.8,
    wait="10m",
)

ALERTS = (SOURCE_FALLS, COVERAGE, VERIFIER_ERRORS, STALL, STALENESS, LAG, DEAD_LETTERS, ALL_WRONG)
