-- What became of groups. A drop that is older than the prompt of its group is void: the log that held it
-- was lost, the newest checkpoint did not cover it, and the group was dispatched again.
CREATE OR REPLACE VIEW standing_outcomes AS
SELECT o.*
FROM (SELECT * FROM outcomes FINAL) AS o
LEFT JOIN (SELECT run, split, number, created AS prompt_created FROM prompts FINAL WHERE split = 'train') AS p
    ON p.run = o.run AND p.split = o.split AND p.number = o.number
WHERE o.fate != 'dropped' OR o.created >= prompt_created;

-- One row a rollout of a step: what it was worth, and what the learner measured of it.
CREATE OR REPLACE VIEW step_rollouts AS
SELECT
    run, step, created, number, rollout_index, has_zero_variance,
    if(is_valid, worth, NULL) AS reward, advantage, age, mean_entropy, clip_fraction, mean_kl
FROM steps FINAL
ARRAY JOIN
    numbers AS number, rollout_indexes AS rollout_index, zero_variances AS has_zero_variance, valid AS is_valid,
    rewards AS worth, advantages AS advantage, ages AS age,
    mean_entropies AS mean_entropy, clip_fractions AS clip_fraction, mean_kls AS mean_kl;

-- One row a rollout of a settled group, as the assembler and the learner judged it: nothing of this is
-- computed again. reward is NULL if it has none. A trained group is here as soon as its step is done; the
-- outcome that follows the checkpoint says the same.
CREATE OR REPLACE VIEW rollout_outcomes AS
SELECT
    run, split, eval_step, eval_attempt, number, rollout_index,
    newest.1 AS fate, newest.2 AS reason, newest.3 AS has_zero_variance,
    newest.4 AS reward, newest.5 AS advantage, newest.6 AS age
FROM (
    SELECT
        run, split, eval_step, eval_attempt, number, rollout_index,
        argMax((fate, reason, has_zero_variance, reward, advantage, age), created) AS newest
    FROM (
        SELECT
            run, 'train' AS split, 0 AS eval_step, 0 AS eval_attempt, number, rollout_index,
            'trained' AS fate, '' AS reason,
            has_zero_variance, reward, advantage, age, created
        FROM step_rollouts
        UNION ALL
        SELECT
            run, split, eval_step, eval_attempt, number, rollout_index, fate, reason,
            has_zero_variance, if(is_valid, worth, NULL) AS reward, advantage, age, created
        FROM standing_outcomes
        ARRAY JOIN
            rollout_indexes AS rollout_index, valid AS is_valid, rewards AS worth, advantages AS advantage, ages AS age
    )
    GROUP BY run, split, eval_step, eval_attempt, number, rollout_index
);

-- One row a rollout with what the verifiers said of it; keys are "term_id.component". Only rewards of the
-- versions that the rollout pinned are here, so versions never mix; what shadows said stands beside.
-- metric_value is the metric that the run file names for the source; correct means at least 0.5.
CREATE OR REPLACE VIEW rollout_scores AS
SELECT
    r.run AS run, r.split AS split, r.eval_step AS eval_step,
    r.eval_attempt AS eval_attempt, r.number AS number,
    r.rollout_index AS rollout_index, r.source AS source, r.step AS dispatch_step,
    r.num_prompt_tokens AS num_prompt_tokens, r.num_completion_tokens AS num_completion_tokens,
    r.mean_logprob AS mean_logprob, r.finish_reason AS finish_reason, r.oldest_version AS oldest_version,
    r.queued_seconds AS queued_seconds, r.generate_seconds AS generate_seconds,
    r.reflection_words AS reflection_words, r.created AS created,
    arrayReduce('maxMap', said.components) AS components,
    arrayReduce('maxMap', said.metrics) AS metrics,
    mapFromArrays(said.term_id, said.status) AS statuses,
    arrayReduce('maxMap', beside.components) AS shadow_components,
    arrayReduce('maxMap', beside.metrics) AS shadow_metrics,
    mapFromArrays(beside.term_id, beside.status) AS shadow_statuses,
    arrayFilter((term_id, mode) -> mode != 'shadow', r.term_ids, r.term_modes) AS active_ids,
    notEmpty(active_ids) AND arrayAll(term_id -> mapContains(statuses, term_id), active_ids) AS is_judged,
    m.metric AS metric,
    -- The first term that reports the metric, or has no score to tell whether it would.
    arrayFirst(term_id -> statuses[term_id] != 'scored' OR mapContains(components, concat(term_id, '.', m.metric))
                   OR mapContains(metrics, concat(term_id, '.', m.metric)),
               active_ids) AS metric_id,
    concat(metric_id, '.', m.metric) AS metric_key,
    multiIf(NOT is_judged, NULL,
            mapContains(components, metric_key), components[metric_key],
            mapContains(metrics, metric_key), metrics[metric_key],
            NULL) AS metric_value,
    metric_value >= 0.5 AS is_correct
FROM (
    SELECT
        o.*,
        arrayFilter(one -> o.term_versions[indexOf(o.term_ids, one.1)] = one.2, w.rewards) AS pinned,
        arrayFilter(one -> o.term_modes[indexOf(o.term_ids, one.1)] != 'shadow', pinned) AS said,
        arrayFilter(one -> o.term_modes[indexOf(o.term_ids, one.1)] = 'shadow', pinned) AS beside
    FROM (SELECT * FROM rollouts FINAL) AS o
    LEFT JOIN (
        SELECT
            run, split, eval_step, eval_attempt, number, rollout_index,
            groupArray(CAST(
                (
                    term_id, version, status,
                    mapApply((name, value) -> (concat(term_id, '.', name), value), components),
                    mapApply((name, value) -> (concat(term_id, '.', name), value), metrics)
                ),
                'Tuple(term_id String, version String, status String,
                       components Map(String, Float64), metrics Map(String, Float64))'
            )) AS rewards
        FROM rewards FINAL
        GROUP BY run, split, eval_step, eval_attempt, number, rollout_index
    ) AS w
        ON w.run = o.run AND w.split = o.split AND w.eval_step = o.eval_step AND w.eval_attempt = o.eval_attempt
        AND w.number = o.number AND w.rollout_index = o.rollout_index
) AS r
LEFT JOIN (SELECT * FROM sources FINAL) AS m ON m.run = r.run AND m.source = r.source;

-- The same with the final reward, NULL while the group is not settled, and what became of the group.
CREATE OR REPLACE VIEW scored_rollouts AS
SELECT s.*, fate, reward, advantage, age
FROM rollout_scores AS s
LEFT JOIN (
    SELECT
        run AS settled_run, split AS settled_split, eval_step AS settled_eval_step,
        eval_attempt AS settled_attempt, number AS settled_number,
        rollout_index AS settled_index, fate, reward, advantage, age
    FROM rollout_outcomes
) AS o
    ON settled_run = s.run AND settled_split = s.split AND settled_eval_step = s.eval_step
    AND settled_attempt = s.eval_attempt
    AND settled_number = s.number AND settled_index = s.rollout_index;

-- One row a rollout that a step trained on.
CREATE OR REPLACE VIEW trained_rollouts AS
SELECT step, step_created, reward, advantage, age, mean_entropy, clip_fraction, mean_kl, s.*
FROM (
    SELECT
        run AS trained_run, step, created AS step_created, number AS trained_number, rollout_index AS trained_index,
        reward, advantage, age, mean_entropy, clip_fraction, mean_kl
    FROM step_rollouts
    WHERE reward IS NOT NULL
) AS t
INNER JOIN (SELECT * FROM rollout_scores WHERE split = 'train') AS s
    ON s.run = trained_run AND s.number = trained_number AND s.rollout_index = trained_index;
