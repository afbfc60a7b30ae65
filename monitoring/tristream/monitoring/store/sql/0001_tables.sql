-- One table a topic. ReplacingMergeTree keeps one row per identity, the one with the largest rank, so a
-- record that is delivered twice counts once; readers say FINAL. Where the first of two equal facts wins on one
-- log, rank falls with the offset and rises with the log; where the newest wins, rank is the creation time. FINAL keeps
-- one row also across partitions. Times have an index where rows are looked for by time, which the key does not know.

-- The logs that a monitor of the run has read, in the order in which it came to know them.
CREATE TABLE IF NOT EXISTS logs (
    run LowCardinality(String),
    log_id String,
    position UInt32,
    created DateTime64(9, 'UTC')
) ENGINE = ReplacingMergeTree ORDER BY (run, log_id);

CREATE TABLE IF NOT EXISTS prompts (
    run LowCardinality(String),
    split LowCardinality(String),
    eval_step Int64,
    -- A version that is trained anew is evaluated anew, under another attempt.
    eval_attempt Int32,
    number Int64 CODEC(Delta, ZSTD(1)),
    source LowCardinality(String),
    sample_id String,
    group_size UInt32,
    step Int64,
    total_steps Int64,
    text String CODEC(ZSTD(1)),
    ground_truth String CODEC(ZSTD(1)),
    image_hashes Array(String),
    -- Verifier, version and mode of each reward term, as they were pinned when the group was dispatched.
    term_ids Array(LowCardinality(String)),
    term_verifiers Array(LowCardinality(String)),
    term_versions Array(LowCardinality(String)),
    term_modes Array(LowCardinality(String)),
    pinned_version Int64,
    temperature Float64,
    max_tokens UInt32,
    -- Of the run file and the data, and of the prompt itself.
    run_fingerprint LowCardinality(String),
    digest String,
    created DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    rank UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_created created TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree(rank)
PARTITION BY toYYYYMM(created)
ORDER BY (run, split, eval_step, eval_attempt, number);

-- Images by content: the same image in many groups, or in many rollouts, is stored once.
CREATE TABLE IF NOT EXISTS images (
    run LowCardinality(String),
    sha256 String,
    media_type LowCardinality(String),
    uri String,
    data_base64 String CODEC(ZSTD(1))
) ENGINE = ReplacingMergeTree ORDER BY (run, sha256);

CREATE TABLE IF NOT EXISTS rollouts (
    run LowCardinality(String),
    split LowCardinality(String),
    eval_step Int64,
    eval_attempt Int32,
    number Int64 CODEC(Delta, ZSTD(1)),
    rollout_index Int32,
    source LowCardinality(String),
    sample_id String,
    group_size UInt32,
    step Int64,
    total_steps Int64,
    prompt_text String CODEC(ZSTD(1)),
    text String CODEC(ZSTD(1)),
    ground_truth String CODEC(ZSTD(1)),
    image_hashes Array(String),
    term_ids Array(LowCardinality(String)),
    term_verifiers Array(LowCardinality(String)),
    term_versions Array(LowCardinality(String)),
    term_modes Array(LowCardinality(String)),
    -- "term_id.component" -> weight, of the terms that count and the weights other than 0.
    reward_weights Map(LowCardinality(String), Float64),
    combine LowCardinality(String),
    on_unscored LowCardinality(String),
    num_segments UInt32,
    num_prompt_tokens UInt32,
    num_completion_tokens UInt32,
    mean_logprob Float64,
    finish_reason LowCardinality(String),
    oldest_version Int64,
    newest_version Int64,
    temperature Float64,
    queued_seconds Float64,
    generate_seconds Float64,
    -- Occurrences of each reflection word.
    reflection_words Map(LowCardinality(String), UInt32),
    producer LowCardinality(String),
    prompt_digest String,
    -- Why there is no answer, if generation failed.
    error String,
    created DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    rank UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_created created TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree(rank)
PARTITION BY toYYYYMM(created)
ORDER BY (run, split, eval_step, eval_attempt, number, rollout_index);

CREATE TABLE IF NOT EXISTS rewards (
    run LowCardinality(String),
    split LowCardinality(String),
    eval_step Int64,
    eval_attempt Int32,
    number Int64 CODEC(Delta, ZSTD(1)),
    rollout_index Int32,
    term_id LowCardinality(String),
    verifier LowCardinality(String),
    version LowCardinality(String),
    mode LowCardinality(String),
    source LowCardinality(String),
    status LowCardinality(String),
    detail String CODEC(ZSTD(1)),
    components Map(LowCardinality(String), Float64),
    metrics Map(LowCardinality(String), Float64),
    params_json String CODEC(ZSTD(1)),
    queued_seconds Float64,
    score_seconds Float64,
    created DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    rank UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_created created TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree(rank)
PARTITION BY toYYYYMM(created)
ORDER BY (run, split, eval_step, eval_attempt, number, rollout_index, term_id, version);

-- Fate, step and reason are part of the identity: two different outcomes of one group are a broken
-- guarantee, and an audit must see both.
CREATE TABLE IF NOT EXISTS outcomes (
    run LowCardinality(String),
    split LowCardinality(String),
    eval_step Int64,
    eval_attempt Int32,
    number Int64 CODEC(Delta, ZSTD(1)),
    fate LowCardinality(String),
    step Int64,
    reason LowCardinality(String),
    source LowCardinality(String),
    group_size UInt32,
    oldest_version Int64,
    has_zero_variance UInt8,
    rollout_indexes Array(Int32),
    valid Array(UInt8),
    rewards Array(Float64),
    advantages Array(Float64),
    ages Array(Int64),
    created DateTime64(9, 'UTC') CODEC(Delta, ZSTD(1)),
    rank UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_created created TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree(rank)
PARTITION BY toYYYYMM(created)
ORDER BY (run, split, eval_step, eval_attempt, number, fate, step, reason);

CREATE TABLE IF NOT EXISTS policy (
    run LowCardinality(String),
    version Int64,
    total_steps Int64,
    uri String,
    sha256 String,
    -- The ledger of the newest durable checkpoint: trained and dropped groups together, and which of them were dropped.
    durable_step Int64,
    durable_settled Array(Tuple(Int64, Int64)),
    durable_num_dropped UInt64,
    durable_dropped_checksum UInt64,
    learner_epoch Int64,
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, version);

-- The rollouts of a step live inside its row, so that a step trained again after a resume replaces
-- them all at once. What they were worth comes from the step's outcomes, which are final once a durable
-- checkpoint covers the step; what the learner measured is NULL for those that it did not train.
CREATE TABLE IF NOT EXISTS steps (
    run LowCardinality(String),
    step Int64,
    total_steps Int64,
    metrics Map(LowCardinality(String), Float64),
    layer_grad_norms Map(LowCardinality(String), Float64),
    phase_seconds Map(LowCardinality(String), Float64),
    numbers Array(Int64) CODEC(Delta, ZSTD(1)),
    rollout_indexes Array(Int32),
    zero_variances Array(UInt8),
    valid Array(UInt8),
    rewards Array(Float64),
    advantages Array(Float64),
    ages Array(Int64),
    mean_logprobs Array(Nullable(Float64)),
    mean_entropies Array(Nullable(Float64)),
    clip_fractions Array(Nullable(Float64)),
    mean_kls Array(Nullable(Float64)),
    num_completion_tokens UInt64,
    num_groups UInt32,
    max_age Int64,
    created DateTime64(9, 'UTC'),
    rank UInt64,
    INDEX by_first_number arrayMin(numbers) TYPE minmax GRANULARITY 1,
    INDEX by_last_number arrayMax(numbers) TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree(rank)
PARTITION BY toYYYYMM(created)
ORDER BY (run, step)
-- A row is large, and one step is looked for.
SETTINGS index_granularity = 32;

-- What people changed while the run went on; one that is delivered twice counts once.
CREATE TABLE IF NOT EXISTS commands (
    run LowCardinality(String),
    id String,
    kind LowCardinality(String),
    verifier LowCardinality(String),
    version LowCardinality(String),
    sources Array(LowCardinality(String)),
    weights Map(LowCardinality(String), Float64),
    params_json String,
    entry_point String,
    components Array(LowCardinality(String)),
    code_sha256 String,
    from_earliest UInt8,
    from_number Int64,
    from_version Int64,
    -- Why it was not followed; empty if it was.
    refusal String,
    reason String,
    total_steps Int64,
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, id);

-- The newest status of each process, with what it scored by verifier version.
CREATE TABLE IF NOT EXISTS parts (
    run LowCardinality(String),
    part LowCardinality(String),
    instance String,
    state LowCardinality(String),
    waiting_for String,
    since DateTime64(9, 'UTC'),
    started DateTime64(9, 'UTC'),
    address String,
    measures Map(LowCardinality(String), Float64),
    load_verifiers Array(LowCardinality(String)),
    load_versions Array(LowCardinality(String)),
    load_num_scored Array(UInt64),
    epoch Int64,
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, part, instance);

-- The newest status of each process in each minute.
CREATE TABLE IF NOT EXISTS status_minutes (
    run LowCardinality(String),
    part LowCardinality(String),
    instance String,
    minute DateTime('UTC'),
    state LowCardinality(String),
    waiting_for String,
    measures Map(LowCardinality(String), Float64),
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank)
PARTITION BY toYYYYMM(minute)
ORDER BY (run, part, instance, minute);

CREATE TABLE IF NOT EXISTS dead_letters (
    run LowCardinality(String),
    topic LowCardinality(String),
    log_partition Int32,
    log_offset Int64,
    part LowCardinality(String),
    source LowCardinality(String),
    record_key String,
    value_bytes UInt64,
    error String,
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, topic, log_partition, log_offset, part, created);

-- What the run file says of each source; written when a monitor starts.
CREATE TABLE IF NOT EXISTS sources (
    run LowCardinality(String),
    source LowCardinality(String),
    position UInt32,
    metric LowCardinality(String),
    -- An answer is correct if its metric is at least this.
    correct_at Float64,
    weight Float64,
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, source);

-- Whether the database takes inserts at all is found out here.
CREATE TABLE IF NOT EXISTS probes (
    run LowCardinality(String),
    created DateTime64(9, 'UTC')
) ENGINE = ReplacingMergeTree(created) ORDER BY run;
