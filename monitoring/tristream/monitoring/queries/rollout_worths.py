"""What rollouts of a range were worth, as the assembler and the learner said: SQL over a range of keys only."""

MAX_LATE_STEPS = 64
"""A group is trained at most so many steps after the one that it was dispatched for."""

_OUTCOMES = """
    SELECT
        split, eval_step, eval_attempt, number, rollout_index, fate, reason, step AS at_step,
        if(is_valid, worth, NULL) AS reward, advantage, age, o.created AS decided
    FROM (SELECT * FROM outcomes FINAL WHERE $range) AS o
    LEFT JOIN (
        SELECT split, eval_step, eval_attempt, number, created AS prompt_created FROM prompts FINAL WHERE $range
    ) AS p USING (split, eval_step, eval_attempt, number)
    ARRAY JOIN
        rollout_indexes AS rollout_index, valid AS is_valid, rewards AS worth, advantages AS advantage, ages AS age
    WHERE fate != 'dropped' OR decided >= prompt_created
"""
# Steps are found by their key: of the steps that the rollouts were dispatched for, and some after.
_STEPS = """
    SELECT
        'train' AS split, toInt64(0) AS eval_step, toInt32(0) AS eval_attempt, number, rollout_index,
        'trained' AS fate, '' AS reason, step AS at_step,
        if(is_valid, worth, NULL) AS reward, advantage, age, created AS decided
    FROM (
        SELECT * FROM steps FINAL
        WHERE run = {run:String}
            AND step >= (SELECT min(step) FROM rollouts WHERE $range)
            AND step <= (SELECT max(step) + $late FROM rollouts WHERE $range)
    )
    ARRAY JOIN
        numbers AS number, rollout_indexes AS rollout_index, valid AS is_valid, rewards AS worth,
        advantages AS advantage, ages AS age
    WHERE (split, number) IN (SELECT split, number FROM rollouts WHERE $range)
"""
_WORTHS = """
    SELECT
        split, eval_step, eval_attempt, number, rollout_index, newest.1 AS fate, newest.2 AS reason,
        newest.3 AS at_step, newest.4 AS reward, newest.5 AS advantage, newest.6 AS age
    FROM (
        SELECT
            split, eval_step, eval_attempt, number, rollout_index,
            argMax((fate, reason, at_step, reward, advantage, age), decided) AS newest
        FROM ($parts)
        GROUP BY split, eval_step, eval_attempt, number, rollout_index
    )
"""


def worths_sql(range_condition: str, *, is_training: bool = True) -> str:
    """A query with a row a rollout of a settled group: what became of it, and what it was worth.

    Args:
        range_condition: a condition on ``run``, ``split``, ``eval_step``, ``eval_attempt`` and ``number``, which
            tables of prompts, rollouts and outcomes have in their key.
        is_training: whether training rollouts may be among them, which steps tell of before outcomes do.
    """
    parts = f"{_OUTCOMES} UNION ALL {_STEPS}" if is_training else _OUTCOMES
    text = _WORTHS.replace("$parts", parts).replace("$late", str(MAX_LATE_STEPS))
    return text.replace("$range", range_condition)
