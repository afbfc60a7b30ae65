"""The engine: DeepSpeed around the policy, with gradients that do not depend on how a batch is split.

Each micro-batch contributes its sum of token losses over the *global* token count. DeepSpeed averages
gradients over ranks, so the loss is multiplied by the number of ranks; it scales by accumulation steps
only those it counts itself, so the boundary is set by hand and its count stays 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tristream.config.learner import LearnerSection
from tristream.learner.training.distributed import learner_device
from tristream.learner.training.trained_policy import TrainedPolicy
from tristream.runtime.errors import UserError


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

    def __init__(self, policy: TrainedPolicy, settings: LearnerSection, *, precision: str) -> None:
        import deepspeed

        require_equal_collectives(settings.zero_stage, torch.distributed.get_world_size())
        # DeepSpeed would compile a shared-memory collective at the first start, for most of a minute; gloo serves.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)
        self._settings = settings
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self._optimizer = SkippableAdamW(
            trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.999)
        )
        self._engine, *_ = deepspeed.initialize(
            model=policy, optimizer=self._optimizer, config=_deepspeed_config(settings, precision)
        )
        self._writer = self._engine.checkpoint_engine = _StateWriter(self._engine.checkpoint_engine)
        self._engine._copy_recovery_script = lambda _folder: None  # nobody needs it, and a full disk would fail there
        self.policy = policy
        self.device = learner_device()
        policy.train()

    def forward(self, micro_batch: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - passed through by DeepSpeed
        """Log-probabilities and entropies of a micro-batch (see ``TrainedPolicy.forward``)."""
        logprobs, entropies = self._engine(micro_batch)
        return logprobs, entropies

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradients of a loss; the last one of a batch also reduces them over the ranks."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss * torch.distributed.get_world_size())

    def layer_grad_norms(self) -> dict[str, float]:
        """L2 norm of the gradient of each layer, before clipping; call it between backward and step."""
        from deepspeed.utils import safe_get_full_grad

        squares: dict[str, Tensor] = {}
        for name, parameter in self.policy.checkpoint.named_parameters():
            if not parameter.requires_grad:
                continue
            gradient = parameter.grad if self._settings.zero_stage == 0 else safe_get_full_grad(parameter)
            square = torch.zeros(()) if gradient is None else gradient.float().square().sum().cpu()
            layer = layer_of(name)
            squares[layer] = squares.get(layer, torch.zeros(())) + square
        return {layer: float(square.sqrt()) for layer, square in squares.items()}

    def step(self, learning_rate: float, *, skip: bool) -> None:
        """Clip the gradients and update the parameters; ``skip`` discards the gradients instead."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.is_skipped = skip
        self._engine.step()
        self._optimizer.is_skipped = False

    def full_weights(self) -> Mapping[str, Tensor]:
        """Contiguous copies on the CPU of all weights under their Hugging Face names.

        Tied weights come once, under the name of the one that is stored in the checkpoint. Under ZeRO 3 each
        parameter is gathered alone, so that a rank never holds two of them besides the copies.
        """
        import deepspeed

        weights: dict[str, Tensor] = {}
        for name, parameter in self.policy.checkpoint.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                weights[name] = parameter.detach().to("cpu", copy=True).contiguous()
        for name, buffer in self.policy.checkpoint.named_buffers():
            if name in self._persistent_buffers():
                weights[name] = buffer.detach().to("cpu", copy=True).contiguous()
        return weights

    def save_state(self, folder: Path) -> None:
        """Write this rank's part of model and optimizer state.

        Its collectives are the same on every rank, whether the writing fails on one or not.

        Raises:
            OSError, RuntimeError: what failed on this rank first, after all of them are through.
        """
        self._writer.failure = None
        self._engine.save_checkpoint(str(folder), tag="state", save_latest=False)
        if self._writer.failure is not None:
            raise self._writer.failure

    def load_state(self, folder: Path) -> None:
        """Restore what ``save_state`` wrote.

        Raises:
            ValueError: the folder holds no state.
        """
        loaded, _ = self._engine.load_checkpoint(str(folder), tag="state")
        if loaded is None:
            raise ValueError(f"no engine state in {folder}")

    def close(self) -> None:
        """Release the engine."""
        self._engine.destroy()

    def _persistent_buffers(self) -> set[str]:
        return {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in self.policy.checkpoint.named_modules()
            for name in module._buffers
            if name not in module._non_persistent_buffers_set
        }


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


def layer_of(name: str) -> str:
    """Layer of a parameter: up to the first number in its name, else the module that owns it.

    Example:
        >>> layer_of("model.language_model.layers.3.mlp.up_proj.weight")
        'model.language_model.layers.3'
    """
    parts = name.split(".")
    numbered = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[:-1] if numbered is None else parts[: numbered + 1])


def _deepspeed_config(settings: LearnerSection, precision: str) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "bf16": {"enabled": precision == "bf16"},
        "zero_optimization": {
            "stage": settings.zero_stage,
            "overlap_comm": False,
            # Small models fit into one bucket; the default of half a billion elements is allocated at once.
            "reduce_bucket_size": 5_000_000,
            "stage3_prefetch_bucket_size": 0,
            "stage3_param_persistence_threshold": 0,
        },
        "zero_allow_untested_optimizer": True,
        "wall_clock_breakdown": False,
        "steps_per_print": 10**9,
    }
