"""Model FLOPs of a step, and the peak of the device, for the share of it that training makes use of.

A matrix of N parameters takes 2 N floating-point operations a token forward and 4 N backward (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1); attention takes 4 times its width forward and 8 times backward for each pair of tokens
and each layer (Chowdhery et al. 2022, arXiv 2204.02311, appendix B, with pairs that are masked left out). It is what
the model needs, not what is computed: recomputation does not count, a frozen decoder counts as if it were trained, and
the vision tower and the input embedding do not count.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tristream.learner.training.trained_policy import TrainedPolicy

PEAK_TERAFLOPS = (
    ("B200", 2250.0, 75.0),
    ("H200", 989.0, 67.0),
    ("H100 PCIe", 756.0, 51.0),
    ("H100", 989.0, 67.0),
    ("A100", 312.0, 19.5),
    ("L40S", 362.0, 91.6),
    ("L4", 121.0, 30.3),
    ("A10", 125.0, 31.2),
    ("V100", 125.0, 15.7),
    ("RTX 4090", 165.0, 82.6),
)
"""Part of a device's name, and its peak in bf16 (tensor cores, dense) and in fp32, from the vendor's data sheets."""
MATRIX_SIZE = 768
"""A device without an entry multiplies matrices of this size, to see how fast it is."""
NUM_MULTIPLICATIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFlops:
    """What a token of this model costs, and what the device of one rank can do."""

    num_body_parameters: int
    """Parameters of the decoder without its input embedding; of experts those that a token goes through."""
    num_head_parameters: int
    attention_width: int
    """Layers times heads times head size."""
    peak_flops_per_second: float

    def of_step(self, *, num_tokens: float, num_predicted: float, num_attended: float) -> float:
        """Floating-point operations of a step, forward and backward.

        Args:
            num_tokens: tokens that the model computed.
            num_predicted: tokens for which it had logits.
            num_attended: pairs of tokens that attention computed, in one layer.
        """
        matrices = self.num_body_parameters * num_tokens + self.num_head_parameters * num_predicted
        return 6.0 * matrices + 12.0 * self.attention_width * num_attended


def model_flops(policy: TrainedPolicy, device: torch.device, precision: str) -> ModelFlops:
    """What a policy costs on a device; takes up to a second where the device has to be measured."""
    checkpoint, config = policy.checkpoint, policy.decoder.config
    embedding = {id(parameter) for parameter in checkpoint.get_input_embeddings().parameters()}
    body = sum(
        _size(parameter) * _share_of_experts(name, config)
        for name, parameter in policy.decoder.named_parameters()
        if id(parameter) not in embedding
    )
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelFlops(
        num_body_parameters=round(body),
        num_head_parameters=_size(checkpoint.get_output_embeddings().weight),
        attention_width=config.num_hidden_layers * config.num_attention_heads * head_size,
        peak_flops_per_second=peak_flops_per_second(device, precision),
    )


def peak_flops_per_second(device: torch.device, precision: str) -> float:
    """Peak of a device: by its name if it is known, else what it reaches in multiplying matrices."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    for part, bf16, fp32 in PEAK_TERAFLOPS:
        if part in name:
            return 1e12 * (bf16 if precision == "bf16" else fp32)
    return _measure_peak(device, torch.bfloat16 if precision == "bf16" else torch.float32)


def _measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """The fastest of some multiplications, since others may use the device meanwhile."""
    matrix = torch.ones(MATRIX_SIZE, MATRIX_SIZE, device=device, dtype=dtype)
    seconds = []
    for _ in range(NUM_MULTIPLICATIONS):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the result
        seconds.append(time.perf_counter() - started)
    return float(2.0 * MATRIX_SIZE**3 / min(seconds))


def _share_of_experts(name: str, config: Any) -> float:  # noqa: ANN401 - a configuration of transformers
    """Share of a parameter that a token goes through: of the experts of a mixture some, of all else the whole."""
    if ".experts." not in name:
        return 1.0
    num_experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    return float(config.num_experts_per_tok / num_experts) if num_experts else 1.0


def _size(parameter: nn.Parameter) -> int:
    """Elements of a parameter, of which ZeRO 3 leaves a part on each rank."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
