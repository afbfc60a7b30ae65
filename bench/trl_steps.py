"""TRL's training step, by its own code: ``GRPOTrainer`` with its loss, backward pass, clipping and optimizer.

Only sampling and scoring are left out: the trainer is given what they would have made. Settings are the fastest on a
CPU: float32, PyTorch's attention, no recomputation, the fused AdamW that it takes by itself, and as many rows at once
as ``use_rows`` says. TRL's head computes log-probabilities in chunks in any case.
"""

import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tristream.learner.training.sequences import RolloutKey
from tristream.policy.tokens import token_tensor
from tristream.wire.batches import Batch, TrainingRollout


class TrlStep:
    """A trainer of TRL, given its batches.

    Make it before anything joins a process group: TRL would wrap the model for ranks then, which costs time.
    """

    def __init__(self, model_path: Path, output: Path, *, learning_rate: float, num_rows: int, longest: int) -> None:
        self._num_rows = num_rows
        self._trainer = _make_trainer(
            model_path, output, learning_rate=learning_rate, num_rows=num_rows, longest=longest
        )
        self._trainer.create_optimizer()
        accelerator = self._trainer.accelerator
        self._model, self._optimizer = accelerator.prepare(self._trainer.model, self._trainer.optimizer)
        if self._model is not self._trainer.model:
            raise ValueError(f"TRL has wrapped the model as {type(self._model).__name__}, as if there were other ranks")
        self._model.train()
        self.use_rows(num_rows)

    def use_rows(self, num_rows: int) -> None:
        """Compute so many rows at once from now on; the batch is divided by it."""
        num_parts = self._num_rows // num_rows
        arguments = self._trainer.args
        arguments.per_device_train_batch_size = num_rows
        arguments.gradient_accumulation_steps = arguments.steps_per_generation = num_parts
        self._trainer.current_gradient_accumulation_steps = num_parts

    def step(self, inputs: dict[str, Tensor]) -> tuple[float, float, float]:
        """Train once.

        Args:
            inputs: of the whole batch, from ``make_inputs``.

        Returns:
            Loss, gradient norm before clipping, and seconds.
        """
        from trl.trainer.utils import split_tensor_dict

        started = time.monotonic()
        loss = 0.0
        for part in split_tensor_dict(inputs, self._trainer.args.steps_per_generation):
            of_part = self._trainer.compute_loss(self._model, part)
            self._trainer.accelerator.backward(of_part)
            loss += of_part.item()
        parameters = self._model.parameters()
        norm = self._trainer.accelerator.clip_grad_norm_(parameters, self._trainer.args.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss, float(norm), time.monotonic() - started


def make_inputs(batch: Batch, advantages: Mapping[RolloutKey, float]) -> dict[str, Tensor]:
    """A batch as ``GRPOTrainer`` pads it once it is sampled and scored: prompts on their left, answers on their right.

    All of it is as wide as the longest prompt and the longest answer, as TRL has it.
    """
    from trl.trainer.utils import pad

    rollouts = [(group.group.number, rollout) for group in batch.groups for rollout in group.rollouts]
    prompts = [token_tensor(rollout.segments[0].tokens) for _, rollout in rollouts]
    answers = [token_tensor(rollout.segments[1].tokens) for _, rollout in rollouts]
    completion_mask = pad([torch.ones_like(answer) for answer in answers], padding_value=0)
    worth = [advantages[RolloutKey(group_number=number, index=rollout.index)] for number, rollout in rollouts]
    return {
        "prompt_ids": pad(prompts, padding_value=0, padding_side="left"),
        "prompt_mask": pad([torch.ones_like(prompt) for prompt in prompts], padding_value=0, padding_side="left"),
        "completion_ids": pad(answers, padding_value=0),
        "completion_mask": completion_mask,
        "advantages": torch.tensor(worth),
        "num_items_in_batch": completion_mask.sum(),
        "old_per_token_logps": pad([_old_logprobs(rollout) for _, rollout in rollouts], padding_value=0),
    }


def _old_logprobs(rollout: TrainingRollout) -> Tensor:
    return torch.frombuffer(bytearray(rollout.segments[1].logprobs.data), dtype=torch.float32)


def _make_trainer(model_path: Path, output: Path, *, learning_rate: float, num_rows: int, longest: int) -> Any:  # noqa: ANN401 - TRL has no types
    from datasets import Dataset  # type: ignore[import-untyped]  # it has no stubs
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    warnings.simplefilter("ignore")
    logging.getLogger("trl").setLevel(logging.ERROR)
    settings = GRPOConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        loss_type="dapo",
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        num_iterations=1,
        num_generations=num_rows,
        per_device_train_batch_size=num_rows,
        max_completion_length=longest,
        temperature=1.0,
        report_to="none",
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32, attn_implementation="sdpa")
    return GRPOTrainer(
        model=model,
        reward_funcs=_no_reward,
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": "none"}] * num_rows),
        processing_class=_make_tokenizer(),
    )


def _no_reward(completions: Sequence[str], **_columns: object) -> list[float]:
    """A trainer demands one; rewards are given to it here."""
    return [0.0] * len(completions)


def _make_tokenizer() -> Any:  # noqa: ANN401 - transformers has no type for it
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "<unknown>": 2}, unk_token="<unknown>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>", padding_side="left"
    )
