-- One table a topic. ReplacingMergeTree keeps one row per identity, the one with the largest rank, so a
-- record that is delivered twice counts once; readers say FINAL. Where the first of two equal facts
-- wins on one log, rank falls with the offset; where the newest wins, rank is the creation time.

CREATE TABLE IF NOT EXISTS prompts (
    run LowCardinality(String),
    split LowCardinality(String),
    eval_step Int64,
    number Int64,
    source LowCardinality(String),
    sample_id String,
    group_size UInt32,
    step Int64,
    total_steps Int64,
    text String CODEC(ZSTD(1)),
    ground_truth String CODEC(ZSTD(1)),
    image_hashes Array(String),
    verifiers Array(LowCardinality(String)),
    pinned_version Int64,
    temperature Float64,
    max_tokens UInt32,
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, split, eval_step, number);

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
    number Int64,
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
    verifiers Array(LowCardinality(String)),
    -- "verifier.component" -> weight, of the weights above 0.
    reward_weights Map(LowCardinality(String), Float64),
    combine LowCardinality(String),
    on_unscored LowCardinality(String),
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
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, split, eval_step, number, rollout_index);

CREATE TABLE IF NOT EXISTS rewards (
    run LowCardinality(String),
    split LowCardinality(String),
    eval_step Int64,
    number Int64,
    rollout_index Int32,
    verifier LowCardinality(String),
    version LowCardinality(String),
    source LowCardinality(String),
    status LowCardinality(String),
    detail String CODEC(ZSTD(1)),
    components Map(LowCardinality(String), Float64),
    metrics Map(LowCardinality(String), Float64),
    params_json String CODEC(ZSTD(1)),
    queued_seconds Float64,
    score_seconds Float64,
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank)
ORDER BY (run, split, eval_step, number, rollout_index, verifier, version);

-- Fate, step and reason are part of the identity: two different outcomes of one group are a broken
-- guarantee, and an audit must see both.
CREATE TABLE IF NOT EXISTS outcomes (
    run LowCardinality(String),
    split LowCardinality(String),
    eval_step Int64,
    number Int64,
    fate LowCardinality(String),
    step Int64,
    reason LowCardinality(String),
    source LowCardinality(String),
    group_size UInt32,
    oldest_version Int64,
    rollout_indexes Array(Int32),
    valid Array(UInt8),
    rewards Array(Float64),
    advantages Array(Float64),
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank)
ORDER BY (run, split, eval_step, number, fate, step, reason);

CREATE TABLE IF NOT EXISTS policy (
    run LowCardinality(String),
    version Int64,
    total_steps Int64,
    uri String,
    sha256 String,
    settled Array(Tuple(Int64, Int64)),
    dropped Array(Tuple(Int64, Int64)),
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, version);

-- The rollouts of a step live inside its row, so that a step trained again after a resume replaces
-- them all at once.
CREATE TABLE IF NOT EXISTS steps (
    run LowCardinality(String),
    step Int64,
    total_steps Int64,
    metrics Map(LowCardinality(String), Float64),
    layer_grad_norms Map(LowCardinality(String), Float64),
    phase_seconds Map(LowCardinality(String), Float64),
    numbers Array(Int64),
    rollout_indexes Array(Int32),
    mean_logprobs Array(Float64),
    mean_entropies Array(Float64),
    clip_fractions Array(Float64),
    mean_kls Array(Float64),
    num_completion_tokens UInt64,
    num_groups UInt32,
    max_age Int64,
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, step);

CREATE TABLE IF NOT EXISTS verifiers (
    run LowCardinality(String),
    verifier LowCardinality(String),
    version LowCardinality(String),
    mode LowCardinality(String),
    sources Array(LowCardinality(String)),
    num_scored UInt64,
    num_restarts UInt64,
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, verifier, version, mode, created);

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
    weight Float64,
    created DateTime64(9, 'UTC'),
    rank UInt64
) ENGINE = ReplacingMergeTree(rank) ORDER BY (run, source);
