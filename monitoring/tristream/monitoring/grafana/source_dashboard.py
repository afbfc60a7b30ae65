"""The dashboard of sources: a row each, with every metric of it, and the rollouts behind a point."""

from tristream.monitoring.grafana.dashboard import make_dashboard, point_variable
from tristream.monitoring.grafana.links import SOURCE_UID, rollout_on_page
from tristream.monitoring.grafana.metric_panels import metric_panel
from tristream.monitoring.grafana.panels import Json, Panel, Row
from tristream.monitoring.grafana.variables import RUN, SOURCES

_GROUPED = {
    "Reward": ("judged_reward", "mean_reward"),
    "Held-out": ("evaluation", "evaluation_standard_error", "evaluation_coverage"),
    "Metric and correct answers": ("mean_metric", "share_correct"),
    "Groups without variance": ("zero_variance_share", "solve_all_share", "solve_none_share"),
    "Coverage": ("coverage",),
    "Rollouts": ("num_judged", "num_rollouts", "num_unscored"),
    "Lengths": ("mean_length", "mean_correct_length", "mean_wrong_length", "mean_prompt_length", "evaluation_length"),
    "Truncation": (
        "judged_truncated_share", "truncated_share", "correct_truncated_share", "wrong_truncated_share",
    ),
    "Reflection": ("reflection_share", "correct_reflection_share", "wrong_reflection_share"),
    "Correct with and without reflection": ("reflection_correct_share", "no_reflection_correct_share"),
    "Entropy, KL and clipping": ("entropy", "kl", "clip_fraction"),
    "Age": ("mean_age", "max_age"),
    "Spread within groups": ("mean_group_variance", "advantage_deviation"),
    "Cost": ("cost_seconds", "num_tokens"),
    "Components": ("component",),
    "Weighted components": ("weighted_component",),
    "Components of shadows": ("shadow_component",),
    "IoU of matched boxes": tuple(f"iou_{threshold}_pure" for threshold in (50, 75, 95, 99)),
    "Precision and recall of boxes": tuple(
        f"iou_{threshold}_{kind}" for threshold in (50, 75, 95, 99) for kind in ("precision", "recall")
    ),
    "mAP": ("map", "map50", "map75"),
    "Size penalty and weighted scores": (
        "size_penalty", "weighted_iou_score_max_iou", "weighted_iou_score_max_label", "weighted_map_score",
        "weighted_map50_score", "weighted_map75_score",
    ),
    "Active threshold": ("threshold",),
    "Scoring time": ("score_seconds_p50", "score_seconds_p95"),
    "Not scored": ("unscored_share",),
}  # fmt: skip
"""Panels of a source: metrics that are looked at together."""

_CHOSEN = f"""WITH
    toInt64OrZero(${{at:sqlstring}}) AS at,
    (
        SELECT if(at = 0, max(step), argMin(step, abs(toInt64(toUnixTimestamp64Milli(created)) - at)))
        FROM steps WHERE {RUN}
    ) AS chosen,
    members AS (SELECT arrayJoin(numbers) AS number FROM steps FINAL WHERE {RUN} AND step = chosen)"""

_ROWS = f"{SOURCES} AND split = 'train' AND eval_step = 0 AND eval_attempt = 0 AND number IN members"


def build_source() -> Json:
    """The dashboard as Grafana stores it."""
    panels = [metric_panel(*names, title=title, is_of_one_source=True) for title, names in _GROUPED.items()]
    return make_dashboard(
        SOURCE_UID,
        "tristream source",
        "Each source of a run by itself. A click on a point lists the rollouts of that step below.",
        [Row(title="$source", repeat="source", panels=[*panels, _words(), _examples(), _rollouts()])],
        more_variables=[point_variable()],
    )


def _words() -> Panel:
    return Panel(
        title="Reflection words",
        description="Occurrences of each reflection word in the trained rollouts, of all steps and of the newest ten.",
        sql=f"""SELECT word, sum(occurrences) AS all_steps,
    sumIf(occurrences, step > (SELECT max(step) FROM steps WHERE {RUN}) - 10) AS newest_10_steps
FROM reflection_words WHERE {SOURCES} GROUP BY word ORDER BY all_steps DESC, word""",
        kind="table",
    )


def _rollouts_of_step(order: str, limit: str) -> str:
    return f"""{_CHOSEN}
SELECT chosen AS step, r.number AS number, r.rollout_index AS rollout_index, round(reward, 3) AS final_reward,
    round(advantage, 3) AS advantage, age, verdicts, if(notEmpty(words), 'yes', 'no') AS reflects, tokens, finish,
    prompt, answer, truth
FROM (
    SELECT number, rollout_index, reflection_words AS words, num_completion_tokens AS tokens, finish_reason AS finish,
        prompt_text AS prompt, text AS answer, ground_truth AS truth
    FROM rollouts FINAL WHERE {_ROWS}
) AS r
INNER JOIN (SELECT number, rollout_index, reward, advantage, age FROM step_rollouts WHERE {RUN} AND step = chosen) AS t
    ON t.number = r.number AND t.rollout_index = r.rollout_index
LEFT JOIN (
    SELECT number, rollout_index,
        arrayStringConcat(groupArray(concat(verifier, '@', version, ' ', status)), ', ') AS verdicts
    FROM rewards FINAL WHERE {_ROWS} GROUP BY number, rollout_index
) AS v ON v.number = r.number AND v.rollout_index = r.rollout_index
ORDER BY {order} {limit}"""


def _examples() -> Panel:
    return Panel(
        title="Answers with and without reflection",
        description="The best answer of the step with a reflection word, and the best one without.",
        sql=_rollouts_of_step("reward DESC, number, rollout_index", "LIMIT 1 BY reflects"),
        kind="table",
        width=16,
        links=[rollout_on_page()],
    )


def _rollouts() -> Panel:
    return Panel(
        title="Rollouts of a step",
        description="The rollouts that a step trained on, with what each verifier made of them: of the step that a"
        " click on a point chose, else of the newest. A click on a row opens it on the live page.",
        sql=_rollouts_of_step("number, rollout_index", "LIMIT 100"),
        kind="table",
        width=24,
        height=12,
        links=[rollout_on_page()],
    )
