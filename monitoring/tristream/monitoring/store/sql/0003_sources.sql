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

-- Mean of each reward component and each metric, by "term_id.name"; components of shadows are of kind shadow.
CREATE OR REPLACE VIEW source_components AS
SELECT
    run, source, step, entry.1 AS name, entry.3 AS kind,
    max(step_created) AS created, avg(entry.2) AS mean_value, count() AS num_values
FROM trained_rollouts
ARRAY JOIN arrayConcat(
    arrayMap((name, value) -> (toString(name), value, 'component'), mapKeys(components), mapValues(components)),
    arrayMap((name, value) -> (toString(name), value, 'metric'), mapKeys(metrics), mapValues(metrics)),
    arrayMap((name, value) -> (toString(name), value, 'shadow'), mapKeys(shadow_components), mapValues(shadow_components))
) AS entry
GROUP BY run, source, step, name, kind;

-- Occurrences of each reflection word in the trained responses.
CREATE OR REPLACE VIEW reflection_words AS
SELECT run, source, step, entry.1 AS word, sum(entry.2) AS occurrences
FROM trained_rollouts
ARRAY JOIN arrayZip(mapKeys(reflection_words), mapValues(reflection_words)) AS entry
GROUP BY run, source, step, word;

-- All fully judged training groups by the step they were dispatched for, trained or dropped: groups
-- without variance are dropped before training, so only here is their share honest.
CREATE OR REPLACE VIEW source_groups AS
SELECT
    p.run AS run, p.source AS source, p.step AS step,
    max(p.created) AS created,
    count() AS num_groups,
    countIf(g.has_zero_variance) AS num_zero_variance,
    num_zero_variance / num_groups AS zero_variance_share,
    avg(g.variance) AS mean_group_variance
FROM (
    SELECT run, number, any(o.has_zero_variance) AS has_zero_variance, varSamp(o.reward) AS variance
    FROM rollout_outcomes AS o
    WHERE split = 'train' AND reason != 'incomplete'
    GROUP BY run, number
    HAVING count(o.reward) > 1
) AS g
INNER JOIN (SELECT * FROM prompts FINAL WHERE split = 'train') AS p ON p.run = g.run AND p.number = g.number
GROUP BY run, source, step;

-- What became of the training groups for good.
CREATE OR REPLACE VIEW group_outcomes AS
SELECT run, number, source, fate, step, reason, has_zero_variance, oldest_version, created
FROM standing_outcomes
WHERE split = 'train';

CREATE OR REPLACE VIEW drops AS
SELECT run, source, reason, uniqExact(number) AS num_groups, max(created) AS last_created
FROM group_outcomes
WHERE fate = 'dropped'
GROUP BY run, source, reason;

-- Training groups as they stand, trained ones as soon as their step is done. All answers of a group are wrong
-- if its rewards are all equal and none is above 0.
CREATE OR REPLACE VIEW newest_fates AS
SELECT run, source, number, newest.1 AS fate, newest.2 AS reason, newest.3 AS is_all_wrong
FROM (
    SELECT run, source, number, argMax((fate, reason, is_all_wrong), created) AS newest
    FROM (
        SELECT
            run, source, number, fate, reason, created,
            has_zero_variance
                AND arrayMax(arrayFilter((reward, is_valid) -> is_valid, rewards, valid)) <= 0 AS is_all_wrong
        FROM standing_outcomes
        WHERE split = 'train'
        UNION ALL
        SELECT
            s.run AS run, p.source AS source, s.number AS number, 'trained' AS fate, '' AS reason,
            s.created AS created, 0 AS is_all_wrong
        FROM (SELECT DISTINCT run, number, created FROM steps FINAL ARRAY JOIN numbers AS number) AS s
        INNER JOIN (SELECT run, number, source FROM prompts FINAL WHERE split = 'train') AS p
            ON p.run = s.run AND p.number = s.number
    )
    GROUP BY run, source, number
);

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

-- What each source asks of each verifier version: the mode in its newest prompt, active or shadow.
CREATE OR REPLACE VIEW verifier_modes AS
SELECT
    run, verifier, version, source,
    argMax(mode, created) AS current_mode,
    min(created) AS first_created, max(created) AS last_created
FROM prompts FINAL
ARRAY JOIN term_verifiers AS verifier, term_versions AS version, term_modes AS mode
GROUP BY run, verifier, version, source;

-- When each verifier version was asked for in a mode for the first time.
CREATE OR REPLACE VIEW verifier_changes AS
SELECT run, verifier, version, mode, min(created) AS since
FROM prompts FINAL
ARRAY JOIN term_verifiers AS verifier, term_versions AS version, term_modes AS mode
GROUP BY run, verifier, version, mode;

-- Every process that matters: those at work, and those that are done or silent and have no successor. A
-- process tells its state at least every few seconds; one that has not for a minute is silent. A successor
-- of the same part started after its last word.
CREATE OR REPLACE VIEW part_states AS
SELECT
    run, part, instance, shown_state AS state, waiting_for, since, started, address, measures,
    load_verifiers, load_versions, load_num_scored, created
FROM (
    SELECT
        *,
        if(state != 'done' AND created < now64(9) - INTERVAL 60 SECOND, 'silent', toString(state)) AS shown_state,
        shown_state IN ('starting', 'ready') AS is_alive,
        maxIf(started, is_alive) OVER (PARTITION BY run, part) AS newest_start
    FROM parts FINAL
)
WHERE is_alive OR created >= newest_start;

-- What each process scored with each verifier version that it serves.
CREATE OR REPLACE VIEW verifier_loads AS
SELECT
    run, verifier, version, instance, state, num_scored,
    measures['num_restarts'] AS num_restarts, created AS last_created
FROM part_states
ARRAY JOIN load_verifiers AS verifier, load_versions AS version, load_num_scored AS num_scored;

-- Held-out results: the mean of the source's metric over the judged rollouts of a round, where an
-- unscored rollout counts as 0. is_complete tells whether the whole round is judged; answers may be
-- read before their prompts, so a round without prompts is not. Of a version that was evaluated anew, because
-- it was trained anew, only the newest attempt is here.
CREATE OR REPLACE VIEW evaluation AS
SELECT e.*, num_prompts, num_prompts > 0 AND num_judged >= num_prompts AS is_complete
FROM (
    SELECT
        run, source, eval_step, eval_attempt, any(metric) AS metric_name,
        avg(ifNull(metric_value, 0)) AS value,
        if(count() > 1, stddevSamp(ifNull(metric_value, 0)) / sqrt(count()), NULL) AS standard_error,
        avg(reward) AS mean_reward,
        avg(num_completion_tokens) AS mean_length,
        count() AS num_judged,
        countIf(metric_value IS NULL) AS num_unscored,
        max(created) AS last_created
    FROM scored_rollouts
    WHERE split = 'eval' AND is_judged
    GROUP BY run, source, eval_step, eval_attempt
    ORDER BY eval_attempt DESC LIMIT 1 BY run, source, eval_step
) AS e
LEFT JOIN (
    SELECT
        run AS prompt_run, source AS prompt_source, eval_step AS prompt_eval_step, eval_attempt AS prompt_attempt,
        count() AS num_prompts
    FROM (SELECT * FROM prompts FINAL)
    WHERE split = 'eval'
    GROUP BY run, source, eval_step, eval_attempt
) AS p
    ON prompt_run = run AND prompt_source = source AND prompt_eval_step = eval_step AND prompt_attempt = eval_attempt
LEFT JOIN (
    SELECT run AS round_run, eval_step AS round_eval_step, max(eval_attempt) AS newest_attempt
    FROM prompts WHERE split = 'eval' GROUP BY run, eval_step
) AS n ON round_run = run AND round_eval_step = eval_step
WHERE eval_attempt >= newest_attempt;

-- Work done per ten seconds and source.
CREATE OR REPLACE VIEW throughput AS
SELECT
    run, source, toStartOfInterval(created, INTERVAL 10 SECOND) AS bucket,
    count() AS num_rollouts, sum(num_completion_tokens) AS num_tokens,
    num_rollouts / 10 AS rollouts_per_second, num_tokens / 10 AS tokens_per_second
FROM (SELECT run, source, created, num_completion_tokens FROM rollouts FINAL)
GROUP BY run, source, bucket;
