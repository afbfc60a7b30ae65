"""Random tokens of ragged rollouts as a loss is given them, and the gradient of a loss."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tristream.config.algorithms import AlgorithmSection
from tristream.learner.algorithms.protocol import LossInputs, PolicyLoss
from tristream.learner.algorithms.registry import make_algorithm

LONGEST = 6
LENGTHS = (6, 4, 1, 3)


def make_inputs(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> LossInputs:
    """Float64 tokens whose ratios are on both sides of usual bounds, with everything that any loss needs."""
    generator = torch.Generator().manual_seed(seed)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(sum(lengths), generator=generator, dtype=torch.float64)

    logprobs = -3 * torch.rand(sum(lengths), generator=generator, dtype=torch.float64)
    shifts = torch.tensor([0.1, 0.3, -0.2, -0.8], dtype=torch.float64).repeat(len(lengths))[: len(lengths)]
    proximal = logprobs + noise(0.5) + shifts.repeat_interleave(torch.tensor(lengths))
    signs = torch.tensor([1.2, -0.7, 0.3, -1.1, 0.9, -0.4], dtype=torch.float64).repeat(len(lengths))[: len(lengths)]
    return LossInputs(
        logprobs=logprobs.requires_grad_(),
        old_logprobs=proximal + noise(0.5),
        advantages=signs.repeat_interleave(torch.tensor(lengths)),
        rollout_lengths=torch.tensor(lengths),
        num_global_tokens=sum(lengths),
        num_global_rollouts=len(lengths),
        reference_logprobs=logprobs.detach() + noise(0.3),
        proximal_logprobs=proximal,
    )


def part_of(inputs: LossInputs, first: int, last: int) -> LossInputs:
    """The tokens of the rollouts from ``first`` up to ``last``, of the same batch."""
    ends = [0, *inputs.rollout_lengths.cumsum(0).tolist()]
    tokens = slice(ends[first], ends[last])
    names = ("logprobs", "old_logprobs", "advantages", "reference_logprobs", "proximal_logprobs")
    parts = {name: getattr(inputs, name)[tokens] for name in names}
    return replace(inputs, rollout_lengths=inputs.rollout_lengths[first:last], **parts)


def loss_of(inputs: LossInputs, section: AlgorithmSection) -> PolicyLoss:
    return make_algorithm(section, max_tokens=LONGEST).loss(inputs)


def value_and_gradient(inputs: LossInputs, section: AlgorithmSection) -> tuple[float, Tensor]:
    """The loss and its gradient in the log-probabilities, added up over two parts of the batch."""
    num_rollouts = len(inputs.rollout_lengths)
    middle = num_rollouts // 2
    parts = [part_of(inputs, 0, middle), part_of(inputs, middle, num_rollouts)]
    loss = torch.stack([loss_of(part, section).loss for part in parts]).sum()
    (gradient,) = torch.autograd.grad(loss, inputs.logprobs)
    return loss.item(), gradient
