"""``[rollout.engine]``: what generates; one section a type."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, Tag

from tristream.config.base import Section
from tristream.config.choices import by_type, tag


class TransformersEngineSection(Section):
    """The engine on transformers, for small machines."""

    type: Literal["transformers"] = "transformers"
    """Which engine."""
    max_batch_size: int = Field(default=128, ge=1)
    """Most rollouts generated at once."""
    num_threads: int = Field(default=1, ge=1)
    """CPU threads of the engine."""


class VllmEngineSection(Section):
    """vLLM in the producer's process."""

    type: Literal["vllm"] = "vllm"
    """Which engine."""
    python: Path | None = None
    """Python with vLLM in which ``tristream up`` starts the producer, below the run file's folder; None: its own."""
    max_batch_size: int = Field(default=256, ge=1)
    """Most rollouts generated at once."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that one copy of the model is spread over."""
    max_model_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of a prompt and its answer; None: what the model's config says."""
    gpu_memory_share: float = Field(default=0.9, gt=0, le=1)
    """Share of each GPU's memory for weights and cache."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Memory of the cache of keys and values; None: what is left of the GPU's share, or 1 GiB on a CPU."""
    compile: bool = True
    """Whether the model is compiled and captured; off it starts sooner and generates slower."""


class OpenaiEngineSection(Section):
    """vLLM or SGLang servers elsewhere, over their HTTP interface."""

    type: Literal["openai"] = "openai"
    """Which engine."""
    urls: tuple[str, ...] = Field(min_length=1)
    """Addresses of the servers, such as ``http://127.0.0.1:8000``; prompts with a common prefix go to the same one."""
    model: str = ""
    """Name of the model at the servers; empty: the first that they serve."""
    api_key_variable: str = ""
    """Environment variable that holds the servers' key; empty: they ask for none."""
    max_batch_size: int = Field(default=256, ge=1)
    """Most requests in flight, all servers together."""
    request_timeout_seconds: float = Field(default=1800.0, gt=0)
    """A request without an answer for so long is tried again."""
    weights_folder: Path | None = None
    """Where the servers see the folder above the weights' own, ``weights`` of a store of files; None: the same path."""


EngineSection = Annotated[
    Annotated[TransformersEngineSection, Tag(tag("transformers"))]
    | Annotated[VllmEngineSection, Tag(tag("vllm"))]
    | Annotated[OpenaiEngineSection, Tag(tag("openai"))],
    by_type("transformers", "vllm", "openai"),
]
