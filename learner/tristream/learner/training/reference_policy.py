"""A policy that the trained one should stay near: loaded beside it, frozen, and asked for log-probabilities only."""

import torch
from torch import Tensor

from tristream.config.parts import LearnerSettings
from tristream.learner.training.distributed import learner_device
from tristream.learner.training.packing import MicroBatch
from tristream.learner.training.trained_policy import TrainedPolicy, load_policy
from tristream.runtime.errors import UserError


class ReferencePolicy:
    """Scores the sampled tokens of micro-batches, without gradient."""

    def __init__(self, policy: TrainedPolicy) -> None:
        policy.requires_grad_(requires_grad=False)
        policy.eval()
        self._policy = policy

    @torch.no_grad()
    def logprobs(self, micro_batch: MicroBatch) -> Tensor:
        """Log-probability of each target: shape [targets]."""
        logprobs, _ = self._policy(micro_batch)
        result: Tensor = logprobs
        return result


def load_reference(settings: LearnerSettings, trained: TrainedPolicy) -> ReferencePolicy | None:
    """Load the reference that the run file names, or the run's own model as it is on disk; None if none is needed.

    Args:
        settings: of the learner.
        trained: the policy under training, whose vocabulary the reference must have.

    Raises:
        UserError: the folder is no checkpoint, the model is not supported, or it has another vocabulary.
    """
    algorithm = settings.learner.algorithm
    if not algorithm.kl_coefficient:
        return None
    path = algorithm.reference or settings.model.path
    place = f"[learner.algorithm] reference = {path}"
    try:
        policy = load_policy(
            path,
            precision=settings.model.precision,
            freeze=(),
            logprob_chunk_tokens=settings.learner.logprob_chunk_tokens,
        )
    except UserError as error:
        raise UserError(error.what, where=place, remedy=error.remedy) from error
    own, wanted = policy.decoder.config.vocab_size, trained.decoder.config.vocab_size
    if own != wanted:
        raise UserError(
            f"the reference has a vocabulary of {own} tokens, and the model one of {wanted}",
            where=place,
            remedy="name a checkpoint of the same model",
        )
    policy.to(learner_device())
    return ReferencePolicy(policy)
