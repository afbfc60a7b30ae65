-- What people and the page read: closed figures under their names, cheap however long the run is, and facts that are small.
CREATE OR REPLACE VIEW newest_closings AS
SELECT run, kind, key, max(closing) AS newest FROM closings GROUP BY run, kind, key;

CREATE OR REPLACE VIEW judged_groups AS
SELECT c.* EXCEPT (closing) FROM closed_judged_groups AS c
INNER JOIN (SELECT run, key, newest FROM newest_closings WHERE kind = 'step') AS n
    ON n.run = c.run AND n.key = c.step AND n.newest = c.closing WHERE notEmpty(rewards);

CREATE OR REPLACE VIEW trained_rollouts AS
SELECT c.* EXCEPT (closing) FROM closed_trained_rollouts AS c
INNER JOIN (SELECT run, key, newest FROM newest_closings WHERE kind = 'step') AS n
    ON n.run = c.run AND n.key = c.step AND n.newest = c.closing;

CREATE OR REPLACE VIEW source_groups AS
SELECT c.* EXCEPT (closing) FROM closed_source_groups AS c
INNER JOIN (SELECT run, key, newest FROM newest_closings WHERE kind = 'step') AS n
    ON n.run = c.run AND n.key = c.step AND n.newest = c.closing;

CREATE OR REPLACE VIEW source_steps AS
SELECT c.* EXCEPT (closing) FROM closed_source_steps AS c
INNER JOIN (SELECT run, key, newest FROM newest_closings WHERE kind = 'step') AS n
    ON n.run = c.run AND n.key = c.step AND n.newest = c.closing;

CREATE OR REPLACE VIEW source_components AS
SELECT c.* EXCEPT (closing) FROM closed_source_components AS c
INNER JOIN (SELECT run, key, newest FROM newest_closings WHERE kind = 'step') AS n
    ON n.run = c.run AND n.key = c.step AND n.newest = c.closing;

CREATE OR REPLACE VIEW reflection_words AS
SELECT c.* EXCEPT (closing) FROM closed_reflection_words AS c
INNER JOIN (SELECT run, key, newest FROM newest_closings WHERE kind = 'step') AS n
    ON n.run = c.run AND n.key = c.step AND n.newest = c.closing;

CREATE OR REPLACE VIEW verifier_steps AS
SELECT c.* EXCEPT (closing) FROM closed_verifier_steps AS c
INNER JOIN (SELECT run, key, newest FROM newest_closings WHERE kind = 'step') AS n
    ON n.run = c.run AND n.key = c.step AND n.newest = c.closing;

-- Held-out results. Of a version that was evaluated anew, because it was trained anew, only the newest attempt is here.
CREATE OR REPLACE VIEW evaluation AS
SELECT r.*
FROM (
    SELECT * EXCEPT (closing) FROM closed_rounds FINAL WHERE num_judged > 0
    ORDER BY eval_attempt DESC LIMIT 1 BY run, source, eval_step
) AS r
INNER JOIN (
    SELECT run, eval_step, maxIf(eval_attempt, num_prompts > 0) AS newest_attempt
    FROM closed_rounds FINAL GROUP BY run, eval_step
) AS n ON n.run = r.run AND n.eval_step = r.eval_step
WHERE eval_attempt >= newest_attempt;

-- Settled training groups counted: what became of them for good, by source.
CREATE OR REPLACE VIEW settled_groups AS
SELECT run, source, fate, reason, sum(num_groups) AS num_groups, max(last_created) AS last_created
FROM closed_settled_blocks AS c
INNER JOIN (SELECT run, key, newest FROM newest_closings WHERE kind = 'block') AS n
    ON n.run = c.run AND n.key = c.block AND n.newest = c.closing
GROUP BY run, source, fate, reason;

CREATE OR REPLACE VIEW drops AS
SELECT run, source, reason, num_groups, last_created FROM settled_groups WHERE fate = 'dropped';

CREATE OR REPLACE VIEW verifier_minutes AS
SELECT * EXCEPT (closing, score_seconds_digest, queued_seconds_digest) FROM closed_verifier_minutes FINAL;

CREATE OR REPLACE VIEW throughput AS SELECT * EXCEPT (closing) FROM closed_throughput FINAL;

-- Scoring per verifier version and source: what came of it and how long it took; quantiles of a run are those of
-- t-digests, right to about 1 %.
CREATE OR REPLACE VIEW verifier_scores AS
SELECT
    run, verifier, version, source,
    sum(m.num_rewards) AS num_rewards, sum(m.num_scored) AS num_scored, sum(m.num_unscorable) AS num_unscorable,
    sum(m.num_timeout) AS num_timeout, sum(m.num_error) AS num_error,
    (quantilesTDigestMerge(0.5, 0.95)(m.score_seconds_digest) AS score_quantiles)[1] AS score_seconds_p50,
    score_quantiles[2] AS score_seconds_p95,
    (quantilesTDigestMerge(0.5, 0.95)(m.queued_seconds_digest) AS queued_quantiles)[1] AS queued_seconds_p50,
    queued_quantiles[2] AS queued_seconds_p95,
    sum(m.total_score_seconds) AS total_score_seconds, max(m.last_created) AS last_created
FROM (SELECT * FROM closed_verifier_minutes FINAL) AS m
GROUP BY run, verifier, version, source;

-- Wall seconds of each step as the learner tells them: its phases with the wait for its batch.
CREATE OR REPLACE VIEW step_times AS
SELECT
    run, step, created, arraySum(mapValues(phase_seconds)) AS seconds, phase_seconds['wait'] AS wait_seconds,
    num_completion_tokens
FROM steps FINAL;

-- The newest status of each process in each minute.
CREATE OR REPLACE VIEW part_minutes AS
SELECT run, part, instance, minute, state, waiting_for, measures, created FROM status_minutes FINAL;

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
        FROM (SELECT DISTINCT run, number, created FROM kept_steps ARRAY JOIN numbers AS number) AS s
        INNER JOIN (SELECT run, number, source FROM kept_prompts WHERE split = 'train') AS p
            ON p.run = s.run AND p.number = s.number
    )
    GROUP BY run, source, number
);

-- What each source asks of each verifier version: the mode in its newest prompt, active or shadow.
CREATE OR REPLACE VIEW verifier_modes AS
SELECT
    run, verifier, version, source,
    argMax(mode, created) AS current_mode,
    min(created) AS first_created, max(created) AS last_created
FROM prompts FINAL
ARRAY JOIN term_verifiers AS verifier, term_versions AS version, term_modes AS mode
GROUP BY run, verifier, version, source;

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

-- What changed while a run went on, in words. Requests are not here, nor what was refused.
CREATE OR REPLACE VIEW run_changes AS
SELECT
    run, id, kind, verifier, version, sources, weights, from_number, from_version, reason, total_steps, created,
    arrayStringConcat(sources, ', ') AS where_words,
    multiIf(
        kind = 'extend', concat('extend to ', toString(total_steps), ' steps'),
        kind IN ('pause_source', 'resume_source'),
        concat(replaceOne(toString(kind), '_source', ''), ' ', if(empty(sources), 'all sources', where_words)),
        concat(kind, ' ', verifier, '@', version)
    ) AS what,
    if(verifier = '' OR empty(sources), what, concat(what, ' in ', where_words)) AS text
FROM commands FINAL
WHERE refusal = '' AND (kind = 'extend' OR match(id, '^(automatic|waiting)/|/from/[0-9]+$'));

-- The same with the step at which it shows: that for which the first prompt was dispatched of which it holds, or
-- where there is none, the newest step of its time.
CREATE OR REPLACE VIEW change_marks AS
SELECT
    c.run AS run, c.id AS id, c.kind AS kind, c.what AS what, c.text AS text, c.reason AS reason,
    c.from_number AS from_number, c.created AS created,
    if(c.kind != 'extend' AND p.step > 0, p.step, s.step) AS at_step
FROM run_changes AS c
ASOF LEFT JOIN (
    SELECT run, number, any(step) AS step FROM prompts WHERE split = 'train' GROUP BY run, number
) AS p ON c.run = p.run AND c.from_number <= p.number
ASOF LEFT JOIN (SELECT run, step, created FROM steps FINAL) AS s ON c.run = s.run AND c.created >= s.created;

-- When each verifier version came into a mode: as it was commanded, each time, and of those of which nothing was commanded
-- when it was first asked.
CREATE OR REPLACE VIEW verifier_changes AS
SELECT
    run, verifier, version,
    transform(toString(kind), ['add', 'promote', 'demote', 'retire'], ['shadow', 'active', 'shadow', 'retired']) AS mode,
    created AS since
FROM run_changes
WHERE verifier != ''
UNION ALL
SELECT m.run AS run, m.verifier AS verifier, m.version AS version, m.mode AS mode, min(m.minute) AS since
FROM verifier_minutes AS m
LEFT ANTI JOIN (SELECT run, verifier, version FROM run_changes) AS c
    ON c.run = m.run AND c.verifier = m.verifier AND c.version = m.version
GROUP BY run, verifier, version, mode;
