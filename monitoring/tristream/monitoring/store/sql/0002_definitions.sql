-- What each number means: views over the events as they were kept, one fact computed once. Figures that need much of
-- them (raw_...) are computed when a step, a round or a minute is closed, and people read those tables; the views
-- say what the tables must hold. The kept_... views are what a closing narrows down to the keys that it is about.
CREATE OR REPLACE VIEW kept_prompts AS SELECT * FROM prompts FINAL;
CREATE OR REPLACE VIEW kept_rollouts AS SELECT * FROM rollouts FINAL;
CREATE OR REPLACE VIEW kept_rewards AS SELECT * FROM rewards FINAL;
CREATE OR REPLACE VIEW kept_outcomes AS SELECT * FROM outcomes FINAL;
CREATE OR REPLACE VIEW kept_steps AS SELECT * FROM steps FINAL;
CREATE OR REPLACE VIEW kept_sources AS SELECT * FROM sources FINAL;
-- All steps of a run, however narrow the rest is: to which step a time belongs depends on every one.
CREATE OR REPLACE VIEW step_ends AS SELECT run, step, created FROM steps FINAL;

-- What became of groups. A drop that is older than the prompt of its group is void: the log that held it
-- was lost, the newest checkpoint did not cover it, and the group was dispatched again.
CREATE OR REPLACE VIEW standing_outcomes AS
SELECT o.*
FROM kept_outcomes AS o
LEFT JOIN (SELECT run, split, number, created AS prompt_created FROM kept_prompts WHERE split = 'train') AS p
    ON p.run = o.run AND p.split = o.split AND p.number = o.number
WHERE o.fate != 'dropped' OR o.created >= prompt_created;

-- One row a rollout of a step: what it was worth, and what the learner measured of it.
CREATE OR REPLACE VIEW step_rollouts AS
SELECT
    run, step, created, number, rollout_index, has_zero_variance,
    if(is_valid, worth, NULL) AS reward, advantage, age, mean_entropy, clip_fraction, mean_kl
FROM kept_steps
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
-- metric_value is the metric that the run file names for the source, NULL if it was not scored; an answer is
-- correct if that is at least correct_at.
CREATE OR REPLACE VIEW rollout_scores AS
SELECT
    r.run AS run, r.split AS split, r.eval_step AS eval_step,
    r.eval_attempt AS eval_attempt, r.number AS number,
    r.rollout_index AS rollout_index, r.source AS source, r.step AS dispatch_step,
    r.num_prompt_tokens AS num_prompt_tokens, r.num_completion_tokens AS num_completion_tokens,
    r.mean_logprob AS mean_logprob, r.finish_reason AS finish_reason, r.oldest_version AS oldest_version,
    r.queued_seconds AS queued_seconds, r.generate_seconds AS generate_seconds,
    r.reflection_words AS reflection_words, r.reward_weights AS reward_weights, r.created AS created,
    arrayReduce('maxMap', said.components) AS components,
    arrayReduce('maxMap', said.metrics) AS metrics,
    mapFromArrays(said.term_id, said.status) AS statuses,
    arrayReduce('maxMap', beside.components) AS shadow_components,
    arrayReduce('maxMap', beside.metrics) AS shadow_metrics,
    mapFromArrays(beside.term_id, beside.status) AS shadow_statuses,
    arrayFilter((term_id, mode) -> mode != 'shadow', r.term_ids, r.term_modes) AS active_ids,
    notEmpty(active_ids) AND arrayAll(term_id -> mapContains(statuses, term_id), active_ids) AS is_judged,
    length(arrayFilter(term_id -> mapContains(statuses, term_id), active_ids)) AS num_answered_terms,
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
    metric_value >= m.correct_at AS is_correct
FROM (
    SELECT
        o.*,
        arrayFilter(one -> o.term_versions[indexOf(o.term_ids, one.1)] = one.2, w.rewards) AS pinned,
        arrayFilter(one -> o.term_modes[indexOf(o.term_ids, one.1)] != 'shadow', pinned) AS said,
        arrayFilter(one -> o.term_modes[indexOf(o.term_ids, one.1)] = 'shadow', pinned) AS beside
    FROM kept_rollouts AS o
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
        FROM kept_rewards
        GROUP BY run, split, eval_step, eval_attempt, number, rollout_index
    ) AS w
        ON w.run = o.run AND w.split = o.split AND w.eval_step = o.eval_step AND w.eval_attempt = o.eval_attempt
        AND w.number = o.number AND w.rollout_index = o.rollout_index
) AS r
LEFT JOIN kept_sources AS m ON m.run = r.run AND m.source = r.source;

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
CREATE OR REPLACE VIEW raw_trained_rollouts AS
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

-- What a training group counts as: trained by the step that did, or dropped for the step whose report came next, which
-- is the one that was waited for or worked at when it was dropped; what was dropped after the newest report counts for
-- no step until there is a next one. Groups with two different prompts are left out, since nobody knows of which
-- prompt their rewards are. rewards are those of valid rollouts; others have none.
CREATE OR REPLACE VIEW group_verdicts AS
SELECT
    run, number, newest.1 AS fate, newest.2 AS reason, newest.3 AS step, newest.4 AS step_created,
    newest.5 AS has_zero_variance, newest.6 AS rewards
FROM (
    SELECT
        run, number,
        argMax((fate, reason, step, step_created, has_zero_variance, rewards), (decided, step)) AS newest
    FROM (
        SELECT
            run, number, 'trained' AS fate, '' AS reason, step, created AS step_created, created AS decided,
            max(has_zero_variance) AS has_zero_variance,
            groupArrayIf(assumeNotNull(reward), reward IS NOT NULL) AS rewards
        FROM step_rollouts
        GROUP BY run, number, step, created
        UNION ALL
        SELECT
            d.run AS run, d.number AS number, 'dropped' AS fate, d.reason AS reason, s.step AS step,
            s.created AS step_created, d.created AS decided, d.has_zero_variance AS has_zero_variance, d.known AS rewards
        FROM (
            SELECT
                run, number, toString(reason) AS reason, created, has_zero_variance,
                arrayFilter((reward, is_valid) -> is_valid, rewards, valid) AS known
            FROM standing_outcomes
            WHERE split = 'train' AND fate = 'dropped' AND reason != 'conflicting'
        ) AS d
        ASOF INNER JOIN step_ends AS s ON d.run = s.run AND d.created <= s.created
    )
    GROUP BY run, number
);

-- One row a judged training group: num_rollouts were asked for, num_answers came.
CREATE OR REPLACE VIEW raw_judged_groups AS
SELECT
    g.run AS run, p.source AS source, g.number AS number, g.fate AS fate, g.reason AS reason, g.step AS step,
    g.step_created AS step_created, g.has_zero_variance AS has_zero_variance, g.rewards AS rewards,
    toUInt64(p.group_size) AS num_rollouts, a.num_answers AS num_answers, a.num_truncated AS num_truncated
FROM group_verdicts AS g
INNER JOIN (SELECT run, number, source, group_size FROM kept_prompts WHERE split = 'train') AS p
    ON p.run = g.run AND p.number = g.number
LEFT JOIN (
    SELECT run, number, count() AS num_answers, countIf(finish_reason = 'length') AS num_truncated
    FROM kept_rollouts WHERE split = 'train' GROUP BY run, number
) AS a ON a.run = g.run AND a.number = g.number;

-- The same by source and step. Rewards and truncation are over all rollouts of judged groups that have a reward;
-- coverage is the share of all rollouts that have one. Shares of groups are over those that are whole and have two
-- rewards or more: solved by all means that each answer has the full reward of 1, solved by none that no answer has
-- any, both up to 1e-6; a group without variance may be neither, such as where all have half the reward.
CREATE OR REPLACE VIEW raw_source_groups AS
SELECT
    run, source, step, max(step_created) AS created,
    sum(length(rewards)) AS num_judged,
    sum(num_rollouts) AS num_rollouts,
    num_judged / nullIf(num_rollouts, 0) AS coverage,
    sum(arraySum(rewards)) / nullIf(num_judged, 0) AS judged_reward,
    sumIf(num_truncated, notEmpty(rewards)) / nullIf(sumIf(num_answers, notEmpty(rewards)), 0) AS judged_truncated_share,
    countIf(is_whole) AS num_groups,
    countIf(is_whole AND has_zero_variance) AS num_zero_variance,
    num_zero_variance / nullIf(num_groups, 0) AS zero_variance_share,
    countIf(is_whole AND has_zero_variance AND arrayMin(rewards) >= 1 - 1e-6) / nullIf(num_groups, 0) AS solve_all_share,
    countIf(is_whole AND has_zero_variance AND arrayMax(rewards) <= 1e-6) / nullIf(num_groups, 0) AS solve_none_share,
    avgOrNullIf(arrayReduce('varSamp', rewards), is_whole) AS mean_group_variance
FROM (SELECT *, reason != 'incomplete' AND length(rewards) > 1 AS is_whole FROM raw_judged_groups)
GROUP BY run, source, step;

-- One row a source and step, over trained rollouts. Entropy, KL divergence and the clipped share are means over tokens,
-- as the learner's own: a rollout weighs as much as it has tokens. What was not scored is neither correct nor wrong.
-- cost_seconds is the time of the step times the source's share of its trained tokens, so that sources add up to it.
CREATE OR REPLACE VIEW raw_source_steps AS
SELECT
    a.*, num_groups, mean_group_variance,
    step_seconds * num_tokens / nullIf(sum(num_tokens) OVER (PARTITION BY run, step), 0) AS cost_seconds
FROM (
    SELECT
        run, source, step,
        max(step_created) AS created,
        count() AS num_rollouts,
        avg(reward) AS mean_reward,
        stddevSampOrNull(advantage) AS advantage_deviation,
        avgOrNull(metric_value) AS mean_metric,
        countIf(metric_value IS NULL) AS num_unscored,
        avgOrNull(is_correct) AS share_correct,
        avg(num_prompt_tokens) AS mean_prompt_length,
        avg(num_completion_tokens) AS mean_length,
        avgOrNullIf(num_completion_tokens, is_correct) AS mean_correct_length,
        avgOrNullIf(num_completion_tokens, NOT is_correct) AS mean_wrong_length,
        countIf(finish_reason = 'length') / count() AS truncated_share,
        countIf(finish_reason = 'length' AND is_correct) / nullIf(countIf(is_correct), 0) AS correct_truncated_share,
        countIf(finish_reason = 'length' AND NOT is_correct)
            / nullIf(countIf(NOT is_correct), 0) AS wrong_truncated_share,
        countIf(notEmpty(reflection_words)) / count() AS reflection_share,
        countIf(notEmpty(reflection_words) AND is_correct)
            / nullIf(countIf(is_correct), 0) AS correct_reflection_share,
        countIf(notEmpty(reflection_words) AND NOT is_correct)
            / nullIf(countIf(NOT is_correct), 0) AS wrong_reflection_share,
        avgOrNullIf(is_correct, notEmpty(reflection_words)) AS reflection_correct_share,
        avgOrNullIf(is_correct, empty(reflection_words)) AS no_reflection_correct_share,
        sum(mean_entropy * num_completion_tokens)
            / nullIf(sumIf(num_completion_tokens, mean_entropy IS NOT NULL), 0) AS entropy,
        sum(mean_kl * num_completion_tokens) / nullIf(sumIf(num_completion_tokens, mean_kl IS NOT NULL), 0) AS kl,
        sum(clip_fraction * num_completion_tokens)
            / nullIf(sumIf(num_completion_tokens, clip_fraction IS NOT NULL), 0) AS clip_fraction,
        avg(age) AS mean_age,
        max(age) AS max_age,
        sum(num_completion_tokens) AS num_tokens
    FROM raw_trained_rollouts
    GROUP BY run, source, step
) AS a
LEFT JOIN (
    SELECT
        run AS group_run, source AS group_source, step AS group_step,
        count() AS num_groups, avgOrNull(variance) AS mean_group_variance
    FROM (
        SELECT run, source, step, number, if(count(reward) > 1, varSamp(reward), NULL) AS variance
        FROM raw_trained_rollouts
        GROUP BY run, source, step, number
    )
    GROUP BY run, source, step
) AS g ON group_run = run AND group_source = source AND group_step = step
LEFT JOIN (
    SELECT run AS timed_run, step AS timed_step, arraySum(mapValues(phase_seconds)) AS step_seconds FROM kept_steps
) AS t ON timed_run = run AND timed_step = step;

-- Mean of each reward component and each metric, by "term_id.name"; components of shadows are of kind shadow, and of
-- kind weighted are those that count, times their weight.
CREATE OR REPLACE VIEW raw_source_components AS
SELECT
    run, source, step, entry.1 AS name, entry.3 AS kind,
    max(step_created) AS created, avg(entry.2) AS mean_value, count() AS num_values
FROM raw_trained_rollouts
ARRAY JOIN arrayConcat(
    arrayMap((name, value) -> (toString(name), value, 'component'), mapKeys(components), mapValues(components)),
    arrayMap((name, value) -> (toString(name), value, 'metric'), mapKeys(metrics), mapValues(metrics)),
    arrayMap((name, value) -> (toString(name), value, 'shadow'), mapKeys(shadow_components), mapValues(shadow_components)),
    arrayMap(
        name -> (toString(name), reward_weights[name] * components[toString(name)], 'weighted'),
        arrayFilter(name -> mapContains(components, toString(name)), mapKeys(reward_weights))
    )
) AS entry
GROUP BY run, source, step, name, kind;

-- Occurrences of each reflection word in the trained responses.
CREATE OR REPLACE VIEW raw_reflection_words AS
SELECT run, source, step, entry.1 AS word, sum(entry.2) AS occurrences
FROM raw_trained_rollouts
ARRAY JOIN arrayZip(mapKeys(reflection_words), mapValues(reflection_words)) AS entry
GROUP BY run, source, step, word;

-- What each verifier version said of the rollouts of the groups that count for a step, in the mode in which it was
-- asked. threshold is the mean of the overlap that boxes had to reach, where the verifier tells it.
CREATE OR REPLACE VIEW raw_verifier_steps AS
SELECT
    w.run AS run, g.source AS source, g.step AS step, max(g.step_created) AS created,
    w.verifier AS verifier, w.version AS version, w.mode AS mode,
    count() AS num_rewards,
    countIf(status = 'scored') AS num_scored,
    countIf(status = 'timeout') AS num_timeout,
    countIf(status = 'error') AS num_error,
    countIf(status = 'unscorable') AS num_unscorable,
    quantileExact(0.5)(score_seconds) AS score_seconds_p50,
    quantileExact(0.95)(score_seconds) AS score_seconds_p95,
    avgOrNull(JSONExtract(params_json, 'iou_threshold', 'Nullable(Float64)')) AS threshold
FROM kept_rewards AS w
INNER JOIN (SELECT run, number, source, step, step_created FROM raw_judged_groups) AS g
    ON g.run = w.run AND g.number = w.number
WHERE w.split = 'train'
GROUP BY run, source, step, verifier, version, mode;

-- One row a source and held-out round: the mean of the source's metric over its scored answers. What was answered and
-- not scored is left out, and coverage says how much of the answers was scored. A round is complete when 99 % of all
-- its terms have answered; answers may be read before their prompts, so a round without prompts is not.
CREATE OR REPLACE VIEW raw_rounds AS
SELECT
    run, source, eval_step, eval_attempt,
    max(metric) AS metric_name,
    avgOrNull(metric_value) AS value,
    if(count(metric_value) > 1, stddevSampOrNull(metric_value) / sqrt(count(metric_value)), NULL) AS standard_error,
    avgOrNullIf(reward, is_judged) AS mean_reward,
    avgOrNullIf(num_completion_tokens, is_judged) AS mean_length,
    countIf(is_judged) AS num_judged,
    countIf(is_judged AND metric_value IS NULL) AS num_unscored,
    count(metric_value) / nullIf(num_judged, 0) AS coverage,
    maxIf(created, is_judged) AS last_created,
    sum(num_asked) AS num_prompts,
    sum(num_asked_terms) AS num_terms,
    sum(num_answered) AS num_answered_terms,
    num_terms > 0 AND num_answered_terms >= 0.99 * num_terms AS is_complete
FROM (
    SELECT
        run, source, eval_step, eval_attempt, metric, metric_value, reward, num_completion_tokens, is_judged, created,
        0 AS num_asked, 0 AS num_asked_terms, num_answered_terms AS num_answered
    FROM rollout_scores AS s
    LEFT JOIN (
        SELECT
            run AS settled_run, eval_step AS settled_eval_step, eval_attempt AS settled_attempt,
            number AS settled_number, rollout_index AS settled_index, if(is_valid, worth, NULL) AS reward
        FROM kept_outcomes
        ARRAY JOIN rollout_indexes AS rollout_index, valid AS is_valid, rewards AS worth
        WHERE split = 'eval'
    ) AS o
        ON settled_run = s.run AND settled_eval_step = s.eval_step AND settled_attempt = s.eval_attempt
        AND settled_number = s.number AND settled_index = s.rollout_index
    WHERE split = 'eval'
    UNION ALL
    SELECT
        run, source, eval_step, eval_attempt, '' AS metric, NULL AS metric_value, NULL AS reward,
        0 AS num_completion_tokens, 0 AS is_judged, created,
        1 AS num_asked, group_size * countEqual(arrayMap(mode -> mode != 'shadow', term_modes), 1) AS num_asked_terms,
        0 AS num_answered
    FROM kept_prompts
    WHERE split = 'eval'
)
GROUP BY run, source, eval_step, eval_attempt;

-- What became of the training groups for good.
CREATE OR REPLACE VIEW group_outcomes AS
SELECT run, number, source, fate, step, reason, has_zero_variance, oldest_version, created
FROM standing_outcomes
WHERE split = 'train';

-- The same counted, by thousands of groups: one block is counted anew where one of its groups changes.
CREATE OR REPLACE VIEW raw_settled_blocks AS
SELECT
    run, intDiv(number, 4096) AS block, source, fate, reason,
    uniqExact(number) AS num_groups, max(created) AS last_created
FROM group_outcomes
GROUP BY run, block, source, fate, reason;

-- What each verifier version scored in a minute, in the mode in which it was asked.
CREATE OR REPLACE VIEW raw_verifier_minutes AS
SELECT
    run, toStartOfMinute(created) AS minute, source, verifier, version, mode,
    count() AS num_rewards,
    countIf(status = 'scored') AS num_scored,
    countIf(status = 'timeout') AS num_timeout,
    countIf(status = 'error') AS num_error,
    countIf(status = 'unscorable') AS num_unscorable,
    quantileExact(0.5)(score_seconds) AS score_seconds_p50,
    quantileExact(0.95)(score_seconds) AS score_seconds_p95,
    quantileExact(0.5)(queued_seconds) AS queued_seconds_p50,
    quantileExact(0.95)(queued_seconds) AS queued_seconds_p95,
    sum(score_seconds) AS total_score_seconds,
    max(w.created) AS last_created,
    quantilesTDigestState(0.5, 0.95)(w.score_seconds) AS score_seconds_digest,
    quantilesTDigestState(0.5, 0.95)(w.queued_seconds) AS queued_seconds_digest
FROM kept_rewards AS w
GROUP BY run, minute, source, verifier, version, mode;

-- Work done per ten seconds and source.
CREATE OR REPLACE VIEW raw_throughput AS
SELECT
    run, source, toStartOfInterval(created, INTERVAL 10 SECOND) AS bucket,
    count() AS num_rollouts, sum(num_completion_tokens) AS num_tokens,
    num_rollouts / 10 AS rollouts_per_second, num_tokens / 10 AS tokens_per_second
FROM kept_rollouts
GROUP BY run, source, bucket;
