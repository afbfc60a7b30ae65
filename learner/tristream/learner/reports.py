"""What the learner says of a step to people and to the database."""

import math
import time
from collections.abc import Mapping, Sequence

import torch

from tristream.config.run import RunSection
from tristream.learner.outcomes import age_by_rollout, mean_rewards
from tristream.learner.training.distributed import gather_rows, sum_over_ranks
from tristream.learner.training.flops import ModelFlops
from tristream.learner.training.sequences import RolloutKey
from tristream.learner.training.step_metrics import NUM_REPORTED, SKIP_REASONS, SKIPPED, STATISTICS
from tristream.learner.training.train_step import StepResult
from tristream.wire.batches import Batch
from tristream.wire.events import Outcome, RolloutStatistics, StepReport
from tristream.wire.events.parts import TRAINED_REWARD

SPOILT_GROUP = "not_finite_group"
"""Metric of a step whose numbers are not all finite: the first group that has such a number."""


def step_report(
    run: RunSection,
    batch: Batch,
    outcomes: tuple[Outcome, ...],
    result: StepResult,
    phases: Mapping[str, float],
    flops: ModelFlops,
) -> StepReport:
    """The report of a step over all ranks; called by all of them together.

    Args:
        run: which run it is.
        batch: what was trained.
        outcomes: outcomes of the whole batch with their advantages.
        result: what the step did.
        phases: seconds of each phase on this rank.
        flops: what the model costs, and what the device of a rank can do.
    """
    seconds = sum(phases.get(name, 0.0) for name in ("pack", "forward_backward", "optimizer"))
    rows = [dict(zip(STATISTICS, row, strict=True)) for row in sorted(gather_rows(result.statistics).tolist())]
    return StepReport(
        run=run.id,
        step=batch.step,
        total_steps=run.steps,
        metrics=result.metrics
        | {
            "num_rollouts": float(batch.num_global_rollouts),
            "num_threads": float(torch.get_num_threads()),
            "truncated_share": _truncated_share(batch),
            **_speed(batch, result, seconds, flops),
            **rollout_metrics(rows, outcomes),
        },
        layer_grad_norms=result.layer_grad_norms,
        phase_seconds=dict(phases),
        rollouts=tuple(map(_to_statistics, rows)),
        outcomes=outcomes,
        num_completion_tokens=batch.num_global_tokens,
        created_ns=time.time_ns(),
    )


def rollout_metrics(rows: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Metrics of a step that are made of the statistics of its rollouts, of all ranks.

    ``logprob_mismatch_age_N`` is the mean absolute log ratio, in nats, of the tokens of rollouts that are N policy
    versions old: at age 0 what sampler and learner compute differently, beyond it what training changed too.
    """
    ages = age_by_rollout(outcomes)
    sums: dict[int, tuple[float, float]] = {}
    for row in rows:
        age = ages.get(RolloutKey(group_number=int(row["group_number"]), index=int(row["index"])), 0)
        mismatches, num_tokens = sums.get(age, (0.0, 0.0))
        sums[age] = (mismatches + row["sum_of_mismatches"], num_tokens + row["num_trained_tokens"])
    metrics = {
        f"logprob_mismatch_age_{age}": mismatches / num_tokens
        for age, (mismatches, num_tokens) in sorted(sums.items())
        if num_tokens
    }
    metrics["max_ratio"] = max((_or_infinite(row["max_ratio"]) for row in rows), default=1.0)
    spoilt = [row["group_number"] for row in rows if row["num_not_finite"]]
    return metrics | ({SPOILT_GROUP: min(spoilt)} if spoilt else {})


def explain_skip(metrics: Mapping[str, float]) -> str:
    """Why the update of a step was left out, in words; empty if it was not."""
    if not metrics["skipped_updates"]:
        return ""
    words = " and ".join(name for name in SKIP_REASONS if metrics[f"{SKIPPED}{name}"])
    group = f", first in group {metrics[SPOILT_GROUP]:.0f}" if SPOILT_GROUP in metrics else ""
    return f"not finite: {words}{group}"


def report_measures(report: StepReport) -> dict[str, float]:
    """The numbers of a step that the learner's status shows; rewards are those of the rollouts it trained on."""
    rewards = {f"{TRAINED_REWARD}{source}": reward for source, reward in mean_rewards(report.outcomes).items()}
    return {
        "tokens_per_second": report.metrics["tokens_per_second"],
        "staleness": float(report.max_age),
        **rewards,
    }


def _speed(batch: Batch, result: StepResult, seconds: float, flops: ModelFlops) -> dict[str, float]:
    """Tokens a second, and the share of the peak of all ranks' devices that the model's FLOPs are."""
    seconds = max(seconds, 1e-9)
    num_tokens = result.metrics["model_tokens"]
    needed = flops.of_step(
        num_tokens=num_tokens,
        num_predicted=batch.num_global_tokens,
        num_attended=result.metrics["attended_tokens"],
    )
    peak = flops.peak_flops_per_second * torch.distributed.get_world_size()
    return {
        "tokens_per_second": batch.num_global_tokens / seconds,
        "model_tokens_per_second": num_tokens / seconds,
        "model_flops_per_second": needed / seconds,
        "model_flops_utilisation": needed / seconds / peak,
    }


def _truncated_share(batch: Batch) -> float:
    """Share of the rollouts trained on, of all ranks, that were cut off at ``max_tokens``."""
    number = sum(rollout.is_truncated for group in batch.groups for rollout in group.rollouts)
    total = sum_over_ranks(torch.tensor([number], dtype=torch.float64))
    return float(total) / max(1, batch.num_global_rollouts)


def _or_infinite(ratio: float) -> float:
    return math.inf if math.isnan(ratio) else ratio


def _to_statistics(row: Mapping[str, float]) -> RolloutStatistics:
    values = {name: row[name] for name in STATISTICS[2:NUM_REPORTED]}
    return RolloutStatistics(group_number=int(row["group_number"]), index=int(row["index"]), **values)
