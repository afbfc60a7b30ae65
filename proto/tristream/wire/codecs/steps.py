"""Codec of step reports."""

from tristream.steps.v1 import step_report_pb2
from tristream.wire import events
from tristream.wire.codecs.base import Codec, require
from tristream.wire.codecs.outcomes import outcome_from_message, outcome_to_message


def _step_to_message(report: events.StepReport) -> step_report_pb2.StepReport:
    return step_report_pb2.StepReport(
        run=report.run,
        step=report.step,
        total_steps=report.total_steps,
        metrics=report.metrics,
        layer_grad_norms=report.layer_grad_norms,
        phase_seconds=report.phase_seconds,
        rollouts=[
            step_report_pb2.RolloutStatistics(
                group_number=rollout.group_number,
                index=rollout.index,
                mean_logprob=rollout.mean_logprob,
                mean_entropy=rollout.mean_entropy,
                clip_fraction=rollout.clip_fraction,
                mean_kl=rollout.mean_kl,
            )
            for rollout in report.rollouts
        ],
        outcomes=[outcome_to_message(outcome) for outcome in report.outcomes],
        num_completion_tokens=report.num_completion_tokens,
        created_ns=report.created_ns,
    )


def _step_from_bytes(data: bytes) -> events.StepReport:
    message = step_report_pb2.StepReport.FromString(data)
    require(message.step >= 1, f"step report has step {message.step}")
    return events.StepReport(
        run=message.run,
        step=message.step,
        total_steps=message.total_steps,
        metrics=dict(message.metrics),
        layer_grad_norms=dict(message.layer_grad_norms),
        phase_seconds=dict(message.phase_seconds),
        rollouts=tuple(
            events.RolloutStatistics(
                group_number=rollout.group_number,
                index=rollout.index,
                mean_logprob=rollout.mean_logprob,
                mean_entropy=rollout.mean_entropy,
                clip_fraction=rollout.clip_fraction,
                mean_kl=rollout.mean_kl,
            )
            for rollout in message.rollouts
        ),
        outcomes=tuple(outcome_from_message(outcome) for outcome in message.outcomes),
        num_completion_tokens=message.num_completion_tokens,
        created_ns=message.created_ns,
    )


STEP = Codec(_step_to_message, _step_from_bytes)
