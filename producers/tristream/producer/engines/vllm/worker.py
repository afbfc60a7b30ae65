"""What the processes of vLLM that compute do for a policy; imported by them alone.

vLLM's processed log-probabilities are those of the truncated distribution where top_p, top_k or min_p leave tokens out.
A learner computes those of the full one, so they are taken before.

vLLM samples a token for a prompt that is read in parts after each part, drops it and turns the request's generator
back, in a way that generators of CPUs do not know: the engine ends with a RuntimeError. Here they do.
"""

from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

GREEDY_TEMPERATURE = 1e-5
"""vLLM samples greedily below it."""


class PolicyWorker:
    """Further methods of vLLM's worker, called by their name (``worker_extension_cls``)."""

    def keep_full_logprobs(self) -> bool:
        """Return log-probabilities of the full distribution from now on; False if the sampler is of another kind."""
        sampler = self.model_runner.sampler  # type: ignore[attr-defined]
        if type(sampler) not in (Sampler, FullLogprobsSampler):
            return False
        sampler.__class__ = FullLogprobsSampler
        if self.device.type == "cpu":  # type: ignore[attr-defined]
            torch.Generator = RewindableGenerator  # type: ignore[misc]
        return True

    def take_weights(self, folder: str) -> None:
        """Load the weights of a checkpoint's folder in place of those before."""
        self.reload_weights(weights_path=folder)  # type: ignore[attr-defined]
        for module in self.model_runner.get_model().modules():  # type: ignore[attr-defined]
            # On CPUs a head computes with a packed copy, which vLLM makes anew for the layers of the file alone; a
            # head that is tied to the embedding is none of them.
            if isinstance(module, VocabParallelEmbedding) and hasattr(module, "cpu_linear"):
                module.quant_method.process_weights_after_loading(module)


class RewindableGenerator(torch.Generator):
    """A generator of a CPU that turns back to where it was marked last."""

    def mark(self) -> None:
        """Remember where it is."""
        self.marked = self.get_state()

    def get_offset(self) -> int:
        """Any number: what is made of it does not matter."""
        return 0

    def set_offset(self, _offset: int) -> torch.Generator:
        """Turn back to the mark."""
        return self.set_state(self.marked)


class FullLogprobsSampler(Sampler):  # type: ignore[misc]
    """vLLM's sampler, with log-probabilities of the distribution before anything is left out of it."""

    def sample(
        self, logits: Tensor, sampling_metadata: SamplingMetadata, logprobs_mode_override: str | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Sample tokens from logits [rows, vocabulary], which are changed in place; ids and log-probabilities."""
        generators: dict[int, Any] = sampling_metadata.generators
        for generator in generators.values():
            if isinstance(generator, RewindableGenerator):
                generator.mark()
        if not is_truncated(sampling_metadata) or sampling_metadata.max_num_logprobs is None:
            sampled, logprobs = super().sample(logits, sampling_metadata, logprobs_mode_override)
            return sampled, logprobs
        temperature = sampling_metadata.temperature
        temperature = torch.where(temperature < GREEDY_TEMPERATURE, 1.0, temperature)
        full = self.compute_logprobs(logits / temperature[:, None])
        sampled, _ = super().sample(logits, sampling_metadata, logprobs_mode_override)
        return sampled, full


def is_truncated(metadata: SamplingMetadata) -> bool:
    """Whether tokens are left out in any of the rows."""
    if metadata.all_greedy:
        return False
    has_min_p = any(getattr(processor, "min_p_count", 0) for processor in metadata.logitsprocs.argmax_invariant)
    return bool(has_min_p or metadata.top_k is not None or metadata.top_p is not None)
