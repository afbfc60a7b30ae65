"""The settings of DeepSpeed, by the size of the model, its precision and the machine."""

from typing import Any

from tristream.config.learner import LearnerSection

SMALLEST_BUCKET, LARGEST_BUCKET = 1_000_000, 200_000_000
"""Bounds on the elements that are reduced or gathered at once: a bucket is allocated, and amortizes a call."""


def effective_zero_stage(zero_stage: int, precision: str) -> int:
    """The stage that DeepSpeed runs: bf16 begins at 2.

    Without ZeRO DeepSpeed adds bf16 gradients up in bf16, and at stage 1 each rank would hold all of them in fp32.
    """
    return max(zero_stage, 2) if precision == "bf16" else zero_stage


def make_deepspeed_config(
    settings: LearnerSection, *, precision: str, num_trained: int, overlaps_communication: bool
) -> dict[str, Any]:
    """The settings of DeepSpeed.

    Args:
        settings: how the policy is updated.
        precision: of the parameters, ``fp32`` or ``bf16``; gradients are added up and reduced in fp32 in any case.
        num_trained: parameters that are trained.
        overlaps_communication: whether gradients are reduced while others are computed, for which a GPU has streams.
    """
    bucket_size = min(LARGEST_BUCKET, max(SMALLEST_BUCKET, num_trained))
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_optimization": {
            "stage": effective_zero_stage(settings.zero_stage, precision),
            "overlap_comm": overlaps_communication,
            "reduce_bucket_size": bucket_size,
            "allgather_bucket_size": bucket_size,
            "stage3_prefetch_bucket_size": 0,
            "stage3_param_persistence_threshold": 0,
        },
        "zero_allow_untested_optimizer": True,
        "wall_clock_breakdown": False,
        "steps_per_print": 10**9,
    }
