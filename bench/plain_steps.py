"""Two training steps in plain torch, to compare the learner's step with.

``BareStep`` takes the learner's packed micro-batches and does nothing but the mathematics: no DeepSpeed, no
statistics, no chunks. ``PaddedStep`` is the step that people write first: a row for each rollout, its prompt and
its images repeated, padded to the longest. All three have the same gradient, which the benchmark checks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tristream.config.run_file import RunFile
from tristream.learner.training.packing import MicroBatch
from tristream.learner.training.sequences import RolloutKey
from tristream.learner.training.trained_policy import freeze_parameters, load_policy
from tristream.policy.images import ProcessedImage
from tristream.policy.tokens import token_tensor
from tristream.wire.batches import TrainingGroup, TrainingRollout


class BareStep:
    """Forward, backward and update over packed micro-batches."""

    def __init__(self, settings: RunFile) -> None:
        self._policy = load_policy(
            settings.model.path,
            precision=settings.model.precision,
            freeze=settings.model.freeze,
            logprob_chunk_tokens=settings.learner.logprob_chunk_tokens,
        ).train()
        self._update = _Update(self._policy.parameters(), settings)

    def step(self, micro_batches: Sequence[MicroBatch], num_tokens: int) -> float:
        """Update once; returns the gradient norm."""
        for batch in micro_batches:
            logprobs = self._logprobs(batch)
            torch.autograd.backward(policy_gradient_loss(logprobs, batch.old_logprobs, batch.advantages, num_tokens))
        return self._update.step()

    def _logprobs(self, batch: MicroBatch) -> Tensor:
        checkpoint = self._policy.checkpoint
        embeddings = checkpoint.get_input_embeddings()(batch.input_ids)
        if batch.images:
            features = self._features(batch.images)[batch.image_features]
            embeddings = embeddings.index_copy(1, batch.image_positions, features[None])
        hidden = self._policy.decoder(
            inputs_embeds=embeddings, position_ids=batch.positions, use_cache=False, prefix_layout=batch.layout
        ).last_hidden_state[0, batch.predictors]
        logits = checkpoint.get_output_embeddings()(hidden).float() / batch.temperatures[:, None]
        return -cross_entropy(logits, batch.targets, reduction="none")

    @torch.no_grad()
    def _features(self, images: Sequence[ProcessedImage]) -> Tensor:
        pixels = torch.cat([image.pixel_values for image in images])
        grid = torch.tensor([image.grid_thw for image in images])
        return torch.cat(tuple(self._policy.checkpoint.model.get_image_features(pixels, grid).pooler_output))


class PaddedStep:
    """Forward, backward and update with a padded row for each rollout."""

    def __init__(self, settings: RunFile) -> None:
        from transformers import AutoModelForImageTextToText

        self._model: Any = AutoModelForImageTextToText.from_pretrained(settings.model.path, attn_implementation="sdpa")
        freeze_parameters(self._model, settings.model.freeze)
        self._model.train()
        self._update = _Update(self._model.parameters(), settings)
        self._most_tokens = settings.learner.micro_batch_tokens
        self.num_model_tokens = 0
        """Tokens of the last step, padding included."""

    def step(
        self,
        groups: Sequence[TrainingGroup],
        images: Mapping[str, ProcessedImage],
        advantages: Mapping[RolloutKey, float],
        num_tokens: int,
    ) -> float:
        """Update once; returns the gradient norm."""
        rows = [
            _Row.of(rollout, images, advantages[RolloutKey(group_number=group.group.number, index=rollout.index)])
            for group in groups
            for rollout in group.rollouts
        ]
        width = max(len(row.prompt) for row in rows) + max(len(row.answer) for row in rows)
        num_rows = max(1, self._most_tokens // width)
        self.num_model_tokens = 0
        for start in range(0, len(rows), num_rows):
            self._backward(rows[start : start + num_rows], num_tokens)
        return self._update.step()

    def _backward(self, rows: Sequence["_Row"], num_tokens: int) -> None:
        prompts, sees_prompt = _pad([row.prompt for row in rows], on_left=True)
        answers, is_answer = _pad([row.answer for row in rows])
        old_logprobs, _ = _pad([row.old_logprobs for row in rows])
        images = [image for row in rows for image in row.images]
        input_ids = torch.cat([prompts, answers], dim=1)
        self.num_model_tokens += input_ids.numel()
        logits = self._model(
            input_ids=input_ids,
            attention_mask=torch.cat([sees_prompt, is_answer], dim=1).long(),
            mm_token_type_ids=(input_ids == self._model.config.image_token_id).int(),
            pixel_values=torch.cat([image.pixel_values for image in images]),
            image_grid_thw=torch.tensor([image.grid_thw for image in images]),
            use_cache=False,
            logits_to_keep=answers.shape[1] + 1,
        ).logits[:, :-1]
        logits = logits.float() / torch.tensor([row.temperature for row in rows])[:, None, None]
        logprobs = -cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none").view_as(answers)
        advantages = torch.tensor([row.advantage for row in rows])[:, None] * is_answer
        torch.autograd.backward(policy_gradient_loss(logprobs, old_logprobs, advantages, num_tokens))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Row:
    """One rollout of one turn."""

    prompt: Tensor
    """Shape [prompt tokens], int64."""
    answer: Tensor
    """Shape [sampled tokens], int64."""
    old_logprobs: Tensor
    """Shape [sampled tokens], float32."""
    images: tuple[ProcessedImage, ...]
    temperature: float
    advantage: float

    @classmethod
    def of(cls, rollout: TrainingRollout, images: Mapping[str, ProcessedImage], advantage: float) -> "_Row":
        """The row of a rollout.

        Raises:
            ValueError: it has more than one turn.
        """
        prompt, answer = rollout.segments
        return cls(
            prompt=token_tensor(prompt.tokens),
            answer=token_tensor(answer.tokens),
            old_logprobs=torch.frombuffer(bytearray(answer.logprobs.data), dtype=torch.float32),
            images=tuple(images[image.sha256] for image in rollout.images),
            temperature=rollout.temperature,
            advantage=advantage,
        )


class _Update:
    """Clipping, AdamW, and zeroed gradients."""

    def __init__(self, parameters: Iterable[nn.Parameter], settings: RunFile) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        learner = settings.learner
        self._max_grad_norm = learner.max_grad_norm
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=learner.learning_rate, weight_decay=learner.weight_decay, fused=True
        )

    def step(self) -> float:
        """Update the parameters; returns the gradient norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)


def policy_gradient_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, num_tokens: int) -> Tensor:
    """Importance-weighted policy gradient: the mean over ``num_tokens`` of ``-ratio * advantage``, without a clip."""
    return -((logprobs - old_logprobs).exp() * advantages).sum() / num_tokens


def _pad(rows: Sequence[Tensor], *, on_left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows as one matrix padded with zeros, and where it holds something."""
    longest = max(len(row) for row in rows)
    values = torch.zeros(len(rows), longest, dtype=rows[0].dtype)
    is_filled = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), longest) if on_left else slice(0, len(row))
        values[number, place], is_filled[number, place] = row, True
    return values, is_filled
