-- What was closed: each figure of a step, a round, a minute, computed once from the events of its keys and replaced when
-- one of them comes late. Columns are those of the views that say what they mean. A row tells by which closing it was
-- written; of a step and of a block of groups the newest closing alone counts, which is in closings when all its rows
-- are there, so that what a later closing does not find any more goes.
CREATE TABLE IF NOT EXISTS closings (
    run LowCardinality(String),
    -- step or block.
    kind LowCardinality(String),
    key Int64,
    closing UInt64,
    -- Of a step: when the report was made that it was closed with.
    created DateTime64(9, 'UTC')
) ENGINE = ReplacingMergeTree(closing) ORDER BY (run, kind, key);

-- For which steps a group may count, or once did: they are closed anew when something of the group comes.
CREATE TABLE IF NOT EXISTS counted_groups (
    run LowCardinality(String),
    number Int64 CODEC(Delta, ZSTD(1)),
    step Int64,
    INDEX by_step step TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree ORDER BY (run, number, step);

CREATE TABLE IF NOT EXISTS closed_judged_groups
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, step, number)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_judged_groups;

CREATE TABLE IF NOT EXISTS closed_trained_rollouts
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, step, number, rollout_index)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_trained_rollouts;

CREATE TABLE IF NOT EXISTS closed_source_groups
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, step, source)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_source_groups;

CREATE TABLE IF NOT EXISTS closed_source_steps
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, step, source)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_source_steps;

CREATE TABLE IF NOT EXISTS closed_source_components
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, step, source, kind, name)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_source_components;

CREATE TABLE IF NOT EXISTS closed_reflection_words
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, step, source, word)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_reflection_words;

CREATE TABLE IF NOT EXISTS closed_verifier_steps
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, step, source, verifier, version, mode)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_verifier_steps;

CREATE TABLE IF NOT EXISTS closed_rounds
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, eval_step, eval_attempt, source)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_rounds;

CREATE TABLE IF NOT EXISTS closed_settled_blocks
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, block, source, fate, reason)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_settled_blocks;

CREATE TABLE IF NOT EXISTS closed_verifier_minutes
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, minute, source, verifier, version, mode)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_verifier_minutes;

CREATE TABLE IF NOT EXISTS closed_throughput
ENGINE = ReplacingMergeTree(closing) ORDER BY (run, bucket, source)
EMPTY AS SELECT *, toUInt64(0) AS closing FROM raw_throughput;
