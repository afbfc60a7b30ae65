-- Commands of the run itself, and what was refused: what people asked for is answered by the dispatcher with a command
-- of its own, whose id ends with the number of the prompt from which it holds.
ALTER TABLE commands ADD COLUMN IF NOT EXISTS components Array(LowCardinality(String)) AFTER entry_point;
ALTER TABLE commands ADD COLUMN IF NOT EXISTS code_sha256 String AFTER components;
ALTER TABLE commands ADD COLUMN IF NOT EXISTS from_earliest UInt8 AFTER code_sha256;
ALTER TABLE commands ADD COLUMN IF NOT EXISTS from_version Int64 AFTER from_number;
ALTER TABLE commands ADD COLUMN IF NOT EXISTS refusal String AFTER from_version;

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
