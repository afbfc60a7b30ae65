"""What engines are compared with: the checkpoint in transformers, one sequence at a time, without a cache of ours."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DynamicCache

from tristream.policy.images import load_image_processor, read_pixels
from tristream.policy.loading import checkpoint_name_in_memory, load_model
from tristream.policy.tokens import excluded_token_ids


class PlainPolicy:
    """A model with weights of a file, read whole for every question."""

    def __init__(self, model_path: Path, weights: Path) -> None:
        self.model: Any = load_model(model_path, "fp32").eval()
        names = set(self.model.state_dict())
        tensors = {checkpoint_name_in_memory(name, names): tensor for name, tensor in load_file(weights).items()}
        self.model.load_state_dict(tensors, strict=False)
        self._model_path = model_path

    @torch.inference_mode()
    def logits(self, prompt: Sequence[int], tokens: Sequence[int], images: Sequence[bytes] = ()) -> Tensor:
        """Logits [tokens, vocabulary] that each of the tokens after an expanded prompt was sampled from."""
        ids = torch.tensor([[*prompt, *tokens]])
        inputs: dict[str, Tensor] = {}
        if images:
            processor = load_image_processor(self._model_path)
            inputs = dict(processor(images=[read_pixels(image) for image in images], return_tensors="pt"))
            inputs["mm_token_type_ids"] = (ids == self.model.config.image_token_id).int()
        self.model.base_model.rope_deltas = None
        return self._allowed(self.model(input_ids=ids, **inputs).logits[0, len(prompt) - 1 : -1])

    @torch.inference_mode()
    def logits_with_older_cache(
        self, older: "PlainPolicy", prompt: Sequence[int], tokens: Sequence[int], num_older: int
    ) -> Tensor:
        """Logits of the tokens after ``num_older``, where an older policy has read all that it sampled from.

        The first token of these weights is sampled when they read the last one of the older ones.
        """
        ids = [*prompt, *tokens]
        cut = len(prompt) + num_older - 1
        older.model.base_model.rope_deltas = self.model.base_model.rope_deltas = None
        cache = DynamicCache(config=older.model.config.get_text_config())
        older.model(input_ids=torch.tensor([ids[:cut]]), past_key_values=cache, use_cache=True)
        rest = torch.tensor([ids[cut:-1]])
        logits = self.model(input_ids=rest, past_key_values=copy.deepcopy(cache), use_cache=True).logits[0]
        return self._allowed(logits)

    def _allowed(self, logits: Tensor) -> Tensor:
        logits = logits.float().clone()
        logits[:, list(excluded_token_ids(self.model.config))] = -torch.inf
        return logits


def logprobs_of(logits: Tensor, tokens: Sequence[int], temperature: float) -> Tensor:
    """Log-probabilities [tokens] under the full distribution."""
    logprobs = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
    return logprobs[range(len(tokens)), list(tokens)]


def write_other_weights(model_path: Path, path: Path) -> None:
    """Weights of the same model that give other answers, under the names that the checkpoint has."""
    generator = torch.Generator().manual_seed(5)
    tensors = load_file(model_path / "model.safetensors")
    for name, tensor in tensors.items():
        noise = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        tensors[name] = tensor + (tensor.std() * noise if tensor.numel() > 1 else 0)
    save_file(tensors, path)
