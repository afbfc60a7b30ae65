// Which curves there are: the key of the data, a title, what the number is, and how its axis reads.
"use strict";

const SOURCE_PANELS = [
  { key: "mean_reward", title: "Reward", note: "mean final reward" },
  { key: "mean_metric", title: "Metric", note: "what evaluation reports" },
  { key: "mean_length", title: "Length", note: "tokens" },
  { key: "truncated_share", title: "Truncated", note: "share of rollouts", percent: true },
  { key: "entropy", title: "Entropy", note: "nats per token" },
  { key: "zero_variance_share", title: "Zero variance", note: "share of groups", percent: true },
  { key: "mean_age", title: "Age", note: "policy versions" },
  { key: "reflection_share", title: "Reflection", note: "share with a reflection word", percent: true },
];

const MORE_SOURCE_PANELS = [
  { key: "share_correct", title: "Correct", note: "metric at least 0.5", percent: true },
  { key: "mean_group_variance", title: "Group variance", note: "of the reward" },
  { key: "clip_fraction", title: "Clipped", note: "share of tokens", percent: true },
  { key: "kl", title: "KL", note: "to the sampling policy" },
  { key: "num_rollouts", title: "Rollouts", note: "per step" },
  { key: "mean_correct_length", title: "Length if correct", note: "tokens" },
  { key: "mean_wrong_length", title: "Length if wrong", note: "tokens" },
  { key: "correct_truncated_share", title: "Truncated if correct", percent: true },
  { key: "wrong_truncated_share", title: "Truncated if wrong", percent: true },
  { key: "correct_reflection_share", title: "Reflection if correct", percent: true },
  { key: "wrong_reflection_share", title: "Reflection if wrong", percent: true },
  { key: "reflection_correct_share", title: "Correct if reflecting", percent: true },
  { key: "no_reflection_correct_share", title: "Correct without reflection", percent: true },
];

const LEARNER_PANELS = [
  { key: "loss", title: "Loss", free: true },
  { key: "grad_norm", title: "Gradient norm", note: "before clipping" },
  { key: "learning_rate", title: "Learning rate", ticks: ".1~e" },
  { key: "tokens_per_second", title: "Training speed", note: "completion tokens per second" },
];
