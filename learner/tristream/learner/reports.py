"""What the learner says of a step to people and to the database."""

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from tristream.config.run import RunSection
from tristream.learner.outcomes import mean_rewards
from tristream.learner.training.distributed import gather_rows
from tristream.learner.training.step_metrics import STATISTICS
from tristream.learner.training.train_step import StepResult
from tristream.wire.batches import Batch
from tristream.wire.events import Outcome, RolloutStatistics, StepReport


def step_report(
    run: RunSection,
    batch: Batch,
    outcomes: tuple[Outcome, ...],
    result: StepResult,
    phases: Mapping[str, float],
) -> StepReport:
    """The report of a step over all ranks; called by all of them together.

    Args:
        run: which run it is.
        batch: what was trained.
        outcomes: outcomes of the whole batch with their advantages.
        result: what the step did.
        phases: seconds of each phase on this rank.
    """
    seconds = sum(phases.get(name, 0.0) for name in ("pack", "forward_backward", "optimizer"))
    return StepReport(
        run=run.id,
        step=batch.step,
        total_steps=run.steps,
        metrics=result.metrics
        | {
            "tokens_per_second": batch.num_global_tokens / max(seconds, 1e-9),
            "model_tokens_per_second": result.metrics["model_tokens"] / max(seconds, 1e-9),
            "num_rollouts": float(batch.num_global_rollouts),
            "num_threads": float(torch.get_num_threads()),
        },
        layer_grad_norms=result.layer_grad_norms,
        phase_seconds=dict(phases),
        rollouts=_to_statistics(gather_rows(result.statistics)),
        outcomes=outcomes,
        num_completion_tokens=batch.num_global_tokens,
        created_ns=time.time_ns(),
    )


def report_measures(report: StepReport) -> dict[str, float]:
    """The numbers of a step that the learner's status shows."""
    rewards = {f"reward/{source}": reward for source, reward in mean_rewards(report.outcomes).items()}
    return {
        "tokens_per_second": report.metrics["tokens_per_second"],
        "staleness": float(report.max_age),
        **rewards,
    }


def _to_statistics(rows: Tensor) -> tuple[RolloutStatistics, ...]:
    """Statistics by group number and index."""
    named = [dict(zip(STATISTICS, row, strict=True)) for row in sorted(rows.tolist())]
    return tuple(
        RolloutStatistics(group_number=int(row.pop("group_number")), index=int(row.pop("index")), **row)
        for row in named
    )
