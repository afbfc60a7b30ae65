-- One row a rollout with all that verifiers said of it; keys are "verifier.component".
-- Of several versions of one verifier the first on the log counts.
CREATE OR REPLACE VIEW rollout_scores AS
SELECT
    run, split, eval_step, number, rollout_index,
    maxMap(mapApply((name, value) -> (concat(verifier, '.', name), value), first.2)) AS components,
    maxMap(mapApply((name, value) -> (concat(verifier, '.', name), value), first.3)) AS metrics,
    mapFromArrays(groupArray(toString(verifier)), groupArray(toString(first.1))) AS statuses
FROM (
    SELECT
        run, split, eval_step, number, rollout_index, verifier,
        argMax((status, components, metrics), rank) AS first
    FROM rewards FINAL
    GROUP BY run, split, eval_step, number, rollout_index, verifier
)
GROUP BY run, split, eval_step, number, rollout_index;

-- One row a rollout with its final reward: sum(weight * component) / sum(weight), or the plain sum.
-- reward is NULL while a weighted component is missing, unless the sample counts that as zero;
-- metric_value is the metric that the run file names for the source; correct means at least 0.5.
CREATE OR REPLACE VIEW scored_rollouts AS
SELECT
    r.run AS run, r.split AS split, r.eval_step AS eval_step, r.number AS number,
    r.rollout_index AS rollout_index, r.source AS source, r.step AS dispatch_step,
    r.group_size AS group_size, r.num_prompt_tokens AS num_prompt_tokens,
    r.num_completion_tokens AS num_completion_tokens, r.mean_logprob AS mean_logprob,
    r.finish_reason AS finish_reason, r.oldest_version AS oldest_version,
    r.queued_seconds AS queued_seconds, r.generate_seconds AS generate_seconds,
    r.reflection_words AS reflection_words, r.created AS created,
    s.components AS components, s.metrics AS metrics, s.statuses AS statuses,
    notEmpty(s.statuses) AS is_judged,
    arrayAll(name -> mapContains(s.components, name), mapKeys(r.reward_weights)) AS is_complete,
    arraySum((name, weight) -> weight * s.components[name],
             mapKeys(r.reward_weights), mapValues(r.reward_weights)) AS weighted_sum,
    if((is_complete OR (is_judged AND r.on_unscored = 'zero')) AND notEmpty(r.reward_weights),
       weighted_sum / if(r.combine = 'sum', 1, arraySum(mapValues(r.reward_weights))),
       NULL) AS reward,
    m.metric AS metric,
    arrayFirst(name -> mapContains(s.components, name) OR mapContains(s.metrics, name),
               arrayMap(verifier -> concat(verifier, '.', m.metric), r.verifiers)) AS metric_key,
    if(metric_key = '', NULL,
       if(mapContains(s.components, metric_key), s.components[metric_key], s.metrics[metric_key])) AS metric_value,
    metric_value >= 0.5 AS is_correct
FROM (SELECT * FROM rollouts FINAL) AS r
LEFT JOIN rollout_scores AS s
    ON s.run = r.run AND s.split = r.split AND s.eval_step = r.eval_step
    AND s.number = r.number AND s.rollout_index = r.rollout_index
LEFT JOIN (SELECT * FROM sources FINAL) AS m ON m.run = r.run AND m.source = r.source;

-- One row a rollout that a step trained on, with the learner's statistics of it.
CREATE OR REPLACE VIEW trained_rollouts AS
SELECT
    step, step_created, mean_entropy, clip_fraction, mean_kl,
    greatest(0, step - 1 - oldest_version) AS age,
    o.*
FROM (
    SELECT
        run AS trained_run, step, created AS step_created, trained_number, trained_index,
        mean_entropy, clip_fraction, mean_kl
    FROM (SELECT * FROM steps FINAL)
    ARRAY JOIN
        numbers AS trained_number, rollout_indexes AS trained_index, mean_entropies AS mean_entropy,
        clip_fractions AS clip_fraction, mean_kls AS mean_kl
) AS t
INNER JOIN (SELECT * FROM scored_rollouts WHERE split = 'train') AS o
    ON o.run = trained_run AND o.number = trained_number AND o.rollout_index = trained_index;
