"""The engine: DeepSpeed around the policy, with gradients that do not depend on how a batch is split.

Each micro-batch contributes its sum of token losses over the *global* token count. DeepSpeed averages
gradients over ranks, so the loss is multiplied by the number of ranks; it scales by accumulation steps
only those it counts itself, so the boundary is set by hand and its count stays 1.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tristream.config.learner import LearnerSection
from tristream.learner.training.deepspeed_config import effective_zero_stage, make_deepspeed_config
from tristream.learner.training.distributed import learner_device
from tristream.learner.training.full_weights import WeightCopier
from tristream.learner.training.gradients import layer_grad_norms
from tristream.learner.training.other_world_size import find_partitions, load_from_other_world_size
from tristream.learner.training.packing import MicroBatch
from tristream.learner.training.parameter_groups import make_parameter_groups
from tristream.learner.training.schedules import learning_rate_at
from tristream.learner.training.trained_policy import TrainedPolicy
from tristream.policy.images import ProcessedImage
from tristream.runtime.errors import UserError

STATE = "state"
"""Folder of a checkpoint that holds DeepSpeed's files."""
GROUPS_FILE = "parameter-groups.json"
"""Beside a checkpoint's state: the names of the parameters of each group."""


class SkippableAdamW(torch.optim.AdamW):
    """AdamW whose next step can be left out; it is the same at every ZeRO stage."""

    is_skipped = False

    def step(self, closure: Any = None) -> Any:  # noqa: ANN401 - as in torch
        """Update the parameters, unless ``is_skipped`` is set."""
        return None if self.is_skipped else super().step(closure)


class _StateWriter:
    """DeepSpeed's writer of files, which keeps a failure for later: one amid its collectives strands other ranks."""

    def __init__(self, writer: Any) -> None:  # noqa: ANN401 - DeepSpeed has no types
        self._writer = writer
        self.failure: Exception | None = None

    def save(self, state_dict: Any, path: str) -> None:  # noqa: ANN401 - as in DeepSpeed
        """Write one file, unless another one failed."""
        if self.failure is not None:
            return
        try:
            self._writer.save(state_dict=state_dict, path=path)
        except (OSError, RuntimeError) as error:
            self.failure = error

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the rest is DeepSpeed's
        return getattr(self._writer, name)


class TrainingEngine:
    """Trains a policy on micro-batches; all ranks call every method together."""

    def __init__(
        self, policy: TrainedPolicy, settings: LearnerSection, *, precision: str, num_steps: int | None = None
    ) -> None:
        """Wrap a policy.

        Args:
            policy: what is trained.
            settings: how it is updated.
            precision: ``fp32`` or ``bf16``.
            num_steps: steps of the run, towards which the learning rate falls; None only if it is constant.

        Raises:
            UserError: ZeRO 3 on more than one rank, or a prefix of ``[[learner.modules]]`` matches nothing.
        """
        import deepspeed

        world_size = torch.distributed.get_world_size()
        require_equal_collectives(settings.zero_stage, world_size)
        if num_steps is None and settings.learning_rate_schedule != "constant":
            raise ValueError("a learning rate that falls needs the number of steps")
        # DeepSpeed would compile a shared-memory collective at the first start, for most of a minute; gloo serves.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)
        self._settings = settings
        self._num_steps = num_steps or 0
        self._zero_stage = effective_zero_stage(settings.zero_stage, precision)
        self._groups = make_parameter_groups(policy.checkpoint.named_parameters(), settings)
        self._optimizer = SkippableAdamW([{"params": list(group.parameters)} for group in self._groups], fused=True)
        self._set_hyperparameters(settings.learning_rate)
        self._blank_image = _blank_image_for(policy)
        config = make_deepspeed_config(
            settings,
            precision=precision,
            num_trained=sum(parameter.numel() for group in self._groups for parameter in group.parameters),
            overlaps_communication=torch.cuda.is_available() and world_size > 1,
        )
        self._engine, *_ = deepspeed.initialize(model=policy, optimizer=self._optimizer, config=config)
        self._writer = self._engine.checkpoint_engine = _StateWriter(self._engine.checkpoint_engine)
        self._engine._copy_recovery_script = lambda _folder: None  # nobody needs it, and a full disk would fail there
        self._copier = WeightCopier(policy.checkpoint)
        self.policy = policy
        self.device = learner_device()
        policy.train()

    def forward(self, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies of a micro-batch (see ``TrainedPolicy.forward``).

        A vision tower that is trained reads a blank image where there is none: all ranks reduce the same gradients
        in the same order, those of zero too.
        """
        if self._blank_image is not None and not micro_batch.images:
            micro_batch = replace(micro_batch, images=(self._blank_image,))
        logprobs, entropies = self._engine(micro_batch)
        return logprobs, entropies

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradients of a loss; the last one of a batch also reduces them over the ranks."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * torch.distributed.get_world_size())

    def layer_grad_norms(self) -> dict[str, float]:
        """L2 norm of the gradient of each layer, before clipping; call it between backward and step."""
        return layer_grad_norms(self.policy.checkpoint.named_parameters(), self._zero_stage)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 1."""
        return learning_rate_at(step, self._settings, num_steps=self._num_steps)

    def step(self, learning_rate: float, *, skip: bool) -> None:
        """Clip the gradients and update the parameters; ``skip`` discards the gradients instead."""
        self._set_hyperparameters(learning_rate)
        self._optimizer.is_skipped = skip
        self._engine.step()
        self._optimizer.is_skipped = False

    def full_weights(self) -> Mapping[str, Tensor]:
        """Copies of all weights on the CPU, on rank 0 only (see ``WeightCopier.copy``)."""
        return self._copier.copy()

    def save_state(self, folder: Path) -> None:
        """Write this rank's part of model and optimizer state.

        Its collectives are the same on every rank, whether the writing fails on one or not.

        Raises:
            OSError, RuntimeError: what failed on this rank first, after all of them are through.
        """
        self._writer.failure = None
        self._engine.save_checkpoint(str(folder), tag=STATE, save_latest=False)
        if self._writer.failure is not None:
            raise self._writer.failure
        if torch.distributed.get_rank() == 0:
            (folder / GROUPS_FILE).write_text(json.dumps(self._names_of_groups()), encoding="utf-8")

    def load_state(self, folder: Path) -> None:
        """Restore what ``save_state`` wrote, on as many ranks or on others.

        Learning rates, weight decays and betas are those of the settings.

        Raises:
            ValueError: the folder holds no state.
            UserError: parameters were grouped in another way.
        """
        groups = folder / GROUPS_FILE
        if groups.exists() and json.loads(groups.read_text(encoding="utf-8")) != self._names_of_groups():
            raise UserError(
                "the checkpoint's parameters are grouped in another way",
                where=str(folder),
                remedy="give [[learner.modules]], model.freeze and which parameters decay as the run began with them",
            )
        partitions = find_partitions(folder / STATE)
        if partitions and len(partitions) != torch.distributed.get_world_size():
            load_from_other_world_size(self._engine, folder, STATE, partitions)
        elif self._engine.load_checkpoint(str(folder), tag=STATE)[0] is None:
            raise ValueError(f"no engine state in {folder}")
        self._copier.forget_frozen()

    def close(self) -> None:
        """Release the engine."""
        self._engine.destroy()

    def _names_of_groups(self) -> list[list[str]]:
        return [list(group.names) for group in self._groups]

    def _set_hyperparameters(self, learning_rate: float) -> None:
        for own, group in zip(self._groups, self._optimizer.param_groups, strict=True):
            group["lr"] = learning_rate * own.learning_rate_scale
            group["weight_decay"] = own.weight_decay
            group["betas"] = self._settings.betas
            group["eps"] = self._settings.epsilon


def _blank_image_for(policy: TrainedPolicy) -> ProcessedImage | None:
    """The smallest image that a vision tower reads, if it is trained."""
    tower = policy.vision_tower
    if tower is None or not any(parameter.requires_grad for parameter in tower.parameters()):
        return None
    vision = policy.checkpoint.config.vision_config
    size = vision.spatial_merge_size
    num_values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return ProcessedImage(sha256="", pixel_values=torch.zeros(size**2, num_values), grid_thw=(1, size, size))


def require_equal_collectives(zero_stage: int, world_size: int) -> None:
    """Refuse ZeRO 3 over ranks: it gathers at each call of the head, and ranks make different numbers of them.

    Raises:
        UserError: ZeRO 3 on more than one rank.
    """
    if zero_stage == 3 and world_size > 1:
        raise UserError(
            f"ZeRO 3 runs on one rank only, and there are {world_size}",
            where="[learner] zero_stage",
            remedy="use zero_stage = 2, or one rank",
        )
