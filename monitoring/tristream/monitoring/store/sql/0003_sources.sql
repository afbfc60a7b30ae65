-- Per-source metrics. A step is the training step that used the rollouts, except in source_groups.

CREATE OR REPLACE VIEW source_steps AS
SELECT a.*, num_groups, mean_group_variance
FROM (
    SELECT
        run, source, step,
        max(step_created) AS created,
        count() AS num_rollouts,
        avg(reward) AS mean_reward,
        avg(metric_value) AS mean_metric,
        ifNull(avg(is_correct), 0) AS share_correct,
        avg(num_completion_tokens) AS mean_length,
        avgIf(num_completion_tokens, is_correct) AS mean_correct_length,
        avgIf(num_completion_tokens, NOT is_correct) AS mean_wrong_length,
        countIf(finish_reason = 'length') / count() AS truncated_share,
        countIf(finish_reason = 'length' AND is_correct) / nullIf(countIf(is_correct), 0) AS correct_truncated_share,
        countIf(finish_reason = 'length' AND NOT is_correct)
            / nullIf(countIf(NOT is_correct), 0) AS wrong_truncated_share,
        countIf(notEmpty(reflection_words)) / count() AS reflection_share,
        countIf(notEmpty(reflection_words) AND is_correct)
            / nullIf(countIf(is_correct), 0) AS correct_reflection_share,
        countIf(notEmpty(reflection_words) AND NOT is_correct)
            / nullIf(countIf(NOT is_correct), 0) AS wrong_reflection_share,
        countIf(is_correct AND notEmpty(reflection_words))
            / nullIf(countIf(notEmpty(reflection_words)), 0) AS reflection_correct_share,
        countIf(is_correct AND empty(reflection_words))
            / nullIf(countIf(empty(reflection_words)), 0) AS no_reflection_correct_share,
        avg(mean_entropy) AS entropy,
        avg(mean_kl) AS kl,
        avg(clip_fraction) AS clip_fraction,
        avg(age) AS mean_age,
        max(age) AS max_age,
        sum(num_completion_tokens) AS num_tokens
    FROM trained_rollouts
    GROUP BY run, source, step
) AS a
LEFT JOIN (
    SELECT
        run AS group_run, source AS group_source, step AS group_step,
        count() AS num_groups, avg(variance) AS mean_group_variance
    FROM (
        SELECT run, source, step, number, if(count(reward) > 1, varSamp(reward), NULL) AS variance
        FROM trained_rollouts
        GROUP BY run, source, step, number
    )
    GROUP BY run, source, step
) AS g ON group_run = run AND group_source = source AND group_step = step;

-- Mean of each reward component and each metric, by "verifier.name".
CREATE OR REPLACE VIEW source_components AS
SELECT
    run, source, step, entry.1 AS name, entry.3 AS kind,
    max(step_created) AS created, avg(entry.2) AS mean_value, count() AS num_values
FROM trained_rollouts
ARRAY JOIN arrayConcat(
    arrayMap((name, value) -> (toString(name), value, 'component'), mapKeys(components), mapValues(components)),
    arrayMap((name, value) -> (toString(name), value, 'metric'), mapKeys(metrics), mapValues(metrics))
) AS entry
GROUP BY run, source, step, name, kind;

-- Occurrences of each reflection word in the trained responses.
CREATE OR REPLACE VIEW reflection_words AS
SELECT run, source, step, entry.1 AS word, sum(entry.2) AS occurrences
FROM trained_rollouts
ARRAY JOIN arrayZip(mapKeys(reflection_words), mapValues(reflection_words)) AS entry
GROUP BY run, source, step, word;

-- All fully judged training groups by the step they were dispatched for, trained or not: groups
-- without variance are dropped before training, so only here is their share honest.
CREATE OR REPLACE VIEW source_groups AS
SELECT
    run, source, dispatch_step AS step,
    max(created) AS created,
    count() AS num_groups,
    countIf(spread < 1e-9) AS num_zero_variance,
    num_zero_variance / num_groups AS zero_variance_share,
    avg(variance) AS mean_group_variance
FROM (
    SELECT
        run, source, number, any(o.dispatch_step) AS dispatch_step, max(o.created) AS created,
        max(reward) - min(reward) AS spread, varSamp(reward) AS variance
    FROM scored_rollouts AS o
    WHERE split = 'train'
    GROUP BY run, source, number
    HAVING countIf(is_judged) = any(group_size) AND count(reward) > 1
)
GROUP BY run, source, step;

-- What became of the training groups. A drop that is older than the prompt of its group is void: the log
-- that held it was lost, the newest checkpoint did not cover it, and the group was dispatched again.
CREATE OR REPLACE VIEW group_outcomes AS
SELECT
    o.run AS run, o.number AS number, o.source AS source, o.fate AS fate, o.step AS step, o.reason AS reason,
    o.created AS created
FROM (SELECT * FROM outcomes FINAL WHERE split = 'train') AS o
LEFT JOIN (SELECT run, number, created AS prompt_created FROM prompts FINAL WHERE split = 'train') AS p
    ON p.run = o.run AND p.number = o.number
WHERE o.fate != 'dropped' OR o.created >= prompt_created;

CREATE OR REPLACE VIEW drops AS
SELECT run, source, reason, uniqExact(number) AS num_groups, max(created) AS last_created
FROM group_outcomes
WHERE fate = 'dropped'
GROUP BY run, source, reason;

-- Scoring per verifier version and source: what came of it and how long it took.
CREATE OR REPLACE VIEW verifier_scores AS
SELECT
    run, verifier, version, source,
    count() AS num_rewards,
    countIf(status = 'scored') AS num_scored,
    countIf(status = 'unscorable') AS num_unscorable,
    countIf(status = 'timeout') AS num_timeout,
    countIf(status = 'error') AS num_error,
    quantileExact(0.5)(score_seconds) AS score_seconds_p50,
    quantileExact(0.95)(score_seconds) AS score_seconds_p95,
    quantileExact(0.5)(queued_seconds) AS queued_seconds_p50,
    quantileExact(0.95)(queued_seconds) AS queued_seconds_p95,
    sum(score_seconds) AS total_score_seconds,
    max(created) AS last_created
FROM (SELECT * FROM rewards FINAL)
GROUP BY run, verifier, version, source;

CREATE OR REPLACE VIEW verifier_states AS
SELECT
    run, verifier, version,
    argMax(mode, created) AS current_mode,
    argMax(sources, created) AS current_sources,
    argMax(num_scored, created) AS current_num_scored,
    argMax(num_restarts, created) AS current_num_restarts,
    max(created) AS last_heartbeat
FROM (SELECT * FROM verifiers FINAL)
GROUP BY run, verifier, version;

-- When each verifier version entered a mode for the first time.
CREATE OR REPLACE VIEW verifier_changes AS
SELECT run, verifier, version, mode, min(created) AS since
FROM (SELECT * FROM verifiers FINAL)
GROUP BY run, verifier, version, mode;

-- Held-out results: the mean of the source's metric over the judged rollouts of a round, where an
-- unscored rollout counts as 0. is_complete tells whether the whole round is judged; answers may be
-- read before their prompts, so a round without prompts is not.
CREATE OR REPLACE VIEW evaluation AS
SELECT e.*, num_prompts, num_prompts > 0 AND num_judged >= num_prompts AS is_complete
FROM (
    SELECT
        run, source, eval_step, any(metric) AS metric_name,
        avg(ifNull(metric_value, 0)) AS value,
        if(count() > 1, stddevSamp(ifNull(metric_value, 0)) / sqrt(count()), NULL) AS standard_error,
        avg(reward) AS mean_reward,
        avg(num_completion_tokens) AS mean_length,
        count() AS num_judged,
        countIf(metric_value IS NULL) AS num_unscored,
        max(created) AS last_created
    FROM scored_rollouts
    WHERE split = 'eval' AND is_judged
    GROUP BY run, source, eval_step
) AS e
LEFT JOIN (
    SELECT
        run AS prompt_run, source AS prompt_source, eval_step AS prompt_eval_step, count() AS num_prompts
    FROM (SELECT * FROM prompts FINAL)
    WHERE split = 'eval'
    GROUP BY run, source, eval_step
) AS p ON prompt_run = run AND prompt_source = source AND prompt_eval_step = eval_step;

-- Work done per ten seconds and source.
CREATE OR REPLACE VIEW throughput AS
SELECT
    run, source, toStartOfInterval(created, INTERVAL 10 SECOND) AS bucket,
    count() AS num_rollouts, sum(num_completion_tokens) AS num_tokens,
    num_rollouts / 10 AS rollouts_per_second, num_tokens / 10 AS tokens_per_second
FROM (SELECT run, source, created, num_completion_tokens FROM rollouts FINAL)
GROUP BY run, source, bucket;
