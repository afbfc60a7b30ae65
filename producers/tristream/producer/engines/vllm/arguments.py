"""A run file's engine section as what vLLM is started with."""

import os
from typing import Any

from tristream.config.engines import VllmEngineSection
from tristream.config.model import ModelSection

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""By the run file's ``model.precision``."""
CPU_CACHE_GIB = 1.0
CPU_BLOCK_TOKENS = 32
"""Prompts with a common prefix share whole blocks; the default on CPUs, 128, is longer than many prompts."""
GIB = 2**30
WORKER_EXTENSION = "tristream.producer.engines.vllm.worker.PolicyWorker"


def set_environment() -> None:
    """Set what vLLM reads from the environment, unless it is set: it asks no hub, reports to nobody and logs little."""
    for name, value in {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}.items():
        os.environ.setdefault(name, value)


def engine_arguments(
    section: VllmEngineSection, model: ModelSection, *, max_model_tokens: int, has_vision: bool, is_on_cpu: bool
) -> dict[str, Any]:
    """The arguments of ``AsyncEngineArgs``.

    Args:
        section: the engine's.
        model: the model's.
        max_model_tokens: most tokens of a prompt and its answer.
        has_vision: whether the model takes images.
        is_on_cpu: whether vLLM computes on a CPU.
    """
    cache_gib = section.kv_cache_gib or (CPU_CACHE_GIB if is_on_cpu else None)
    arguments: dict[str, Any] = {
        "model": str(model.path),
        "dtype": DTYPES[model.precision],
        "max_model_len": max_model_tokens,
        "max_num_seqs": section.max_batch_size,
        "tensor_parallel_size": section.tensor_parallel_size,
        "gpu_memory_utilization": section.gpu_memory_share,
        "enforce_eager": not section.compile,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        # What the model's generation_config.json recommends is not what the run file says.
        "generation_config": "vllm",
        "disable_log_stats": True,
        "worker_extension_cls": WORKER_EXTENSION,
    }
    if cache_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(cache_gib * GIB)
    if is_on_cpu:
        arguments["block_size"] = CPU_BLOCK_TOKENS
    if has_vision:
        arguments["limit_mm_per_prompt"] = {"video": 0}
    return arguments
