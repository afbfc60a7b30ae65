-- What training is worth over all that was judged: groups that a step trained and groups that were dropped. A group is
-- judged when its verdict came; its valid rollouts count, the others have no reward. Groups with two different prompts
-- are left out, since nobody knows of which prompt their rewards are. The step of a trained group is the one that trained
-- it. A dropped group has none: it counts for the step whose report came next, which is the one that was waited for or
-- worked at when it was dropped. What was dropped after the newest report counts for no step until there is a next one.
CREATE OR REPLACE VIEW judged_groups AS
SELECT
    g.run AS run, p.source AS source, g.number AS number, g.newest.1 AS fate, g.newest.2 AS reason, g.newest.3 AS step,
    g.newest.4 AS step_created, g.newest.5 AS has_zero_variance, g.newest.6 AS rewards,
    a.num_answers AS num_answers, a.num_truncated AS num_truncated
FROM (
    SELECT
        run, number,
        argMax((fate, reason, step, step_created, has_zero_variance, rewards), decided) AS newest
    FROM (
        SELECT
            run, number, 'trained' AS fate, '' AS reason, step, created AS step_created, created AS decided,
            max(has_zero_variance) AS has_zero_variance, groupArray(assumeNotNull(reward)) AS rewards
        FROM step_rollouts
        WHERE reward IS NOT NULL
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
        ASOF INNER JOIN (SELECT run, step, created FROM steps FINAL) AS s ON d.run = s.run AND d.created <= s.created
    )
    GROUP BY run, number
) AS g
INNER JOIN (SELECT run, number, source FROM prompts FINAL WHERE split = 'train') AS p
    ON p.run = g.run AND p.number = g.number
LEFT JOIN (
    SELECT run, number, count() AS num_answers, countIf(finish_reason = 'length') AS num_truncated
    FROM rollouts FINAL WHERE split = 'train' GROUP BY run, number
) AS a ON a.run = g.run AND a.number = g.number
WHERE notEmpty(rewards);

-- The same by source and step. Rewards and truncation are over all rollouts of judged groups. Shares of groups are over
-- those that are whole and have two rewards or more: solved by all means that each answer has the full reward of 1,
-- solved by none that no answer has any, both up to 1e-6; a group without variance may be neither, such as where all
-- have half the reward.
CREATE OR REPLACE VIEW source_groups AS
SELECT
    run, source, step, max(step_created) AS created,
    sum(length(rewards)) AS num_judged,
    sum(arraySum(rewards)) / num_judged AS judged_reward,
    sum(num_truncated) / nullIf(sum(num_answers), 0) AS judged_truncated_share,
    countIf(is_whole) AS num_groups,
    countIf(is_whole AND has_zero_variance) AS num_zero_variance,
    num_zero_variance / nullIf(num_groups, 0) AS zero_variance_share,
    countIf(is_whole AND has_zero_variance AND arrayMin(rewards) >= 1 - 1e-6) / nullIf(num_groups, 0) AS solve_all_share,
    countIf(is_whole AND has_zero_variance AND arrayMax(rewards) <= 1e-6) / nullIf(num_groups, 0) AS solve_none_share,
    avgIf(arrayReduce('varSamp', rewards), is_whole) AS mean_group_variance
FROM (SELECT *, reason != 'incomplete' AND length(rewards) > 1 AS is_whole FROM judged_groups)
GROUP BY run, source, step;
