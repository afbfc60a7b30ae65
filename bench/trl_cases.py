"""Batches on which the learner's step and TRL's are compared: text models with random weights, random tokens.

Nothing but shapes decides how long a step takes. The log-probabilities of the policy that sampled are those of the
model itself with some noise, so that ratios differ from 1 and some are clipped.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.batches import Batch, TrainingGroup, TrainingRollout
from tristream.wire.events import Fate, Group, LogPosition, Outcome, Split, VersionSpan, given, sampled
from tristream.wire.events.outcomes import RolloutOutcome

GROUP_SIZE = 8
FIRST_TOKEN = 3
"""Tokens before it are those for padding, for the end, and for what is unknown."""
RATIO_NOISE = 0.15
"""Standard deviation of the logarithm of the ratio of new to old policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model and the shape of its batch."""

    title: str
    config: dict[str, Any]
    """Of transformers, its model type too."""
    num_groups: int
    num_prompt_tokens: int
    shortest: int
    """Sampled tokens of the shortest answer; lengths are spread evenly up to the longest."""
    longest: int
    num_rounds: int = 2
    """Times that TRL's step is tried with each number of rows at once."""
    num_turns: int = 5
    """Timed steps of each side."""

    @property
    def num_rollouts(self) -> int:
        """Rollouts of a batch."""
        return self.num_groups * GROUP_SIZE

    def answer_lengths(self) -> list[int]:
        """Sampled tokens of each rollout, in an order that mixes short and long ones."""
        steps = max(1, self.num_rollouts - 1)
        lengths = [
            self.shortest + (self.longest - self.shortest) * number // steps for number in range(self.num_rollouts)
        ]
        random.Random(0).shuffle(lengths)
        return lengths


SMALL_QWEN2 = {
    "model_type": "qwen2",
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
SMOLLM2_135M = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    "tie_word_embeddings": True,
}
CASES = MappingProxyType(
    {
        "mixed": Case(
            title="small Qwen2, answers of 16 to 256 tokens",
            config=SMALL_QWEN2,
            num_groups=4,
            num_prompt_tokens=64,
            shortest=16,
            longest=256,
        ),
        "equal": Case(
            title="small Qwen2, answers of 128 tokens",
            config=SMALL_QWEN2,
            num_groups=4,
            num_prompt_tokens=64,
            shortest=128,
            longest=128,
        ),
        "shared": Case(
            title="small Qwen2, prompts of 768 tokens, 8 answers of 96",
            config=SMALL_QWEN2,
            num_groups=2,
            num_prompt_tokens=768,
            shortest=96,
            longest=96,
        ),
        "smollm2": Case(
            title="SmolLM2-135M, answers of 16 to 256 tokens",
            config=SMOLLM2_135M,
            num_groups=1,
            num_prompt_tokens=64,
            shortest=16,
            longest=256,
            num_rounds=1,
            num_turns=3,
        ),
    }
)


def make_checkpoint(case: Case, folder: Path) -> None:
    """Write a checkpoint of the case's model with random weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(**case.config, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def make_batch(case: Case, folder: Path) -> Batch:
    """The case's batch, its rewards 0 and 1 in turns, sampled by the policy of a checkpoint folder."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator, lengths = random.Random(1), case.answer_lengths()
    torch.manual_seed(1)
    groups = [
        _make_group(case, model, generator, number, lengths[number * GROUP_SIZE : (number + 1) * GROUP_SIZE])
        for number in range(case.num_groups)
    ]
    return Batch(
        step=1,
        rank=0,
        groups=tuple(groups),
        outcomes=tuple(_make_outcome(group) for group in groups),
        num_global_tokens=sum(lengths),
        num_global_rollouts=case.num_rollouts,
        dropped=(),
        position=LogPosition(),
    )


def _make_group(
    case: Case,
    model: Any,  # noqa: ANN401 - a transformers model without types
    generator: random.Random,
    number: int,
    lengths: Sequence[int],
) -> TrainingGroup:
    ids = range(FIRST_TOKEN, case.config["vocab_size"])
    prompt = generator.choices(ids, k=case.num_prompt_tokens)
    rollouts = []
    for index, length in enumerate(lengths):
        answer = generator.choices(ids, k=length)
        logprobs = _sampling_logprobs(model, prompt, answer)
        span = VersionSpan(version=0, start=0, end=length)
        segments = (given(Tokens.of(prompt)), sampled(Tokens.of(answer), LogProbs.of(logprobs), (span,)))
        rollouts.append(TrainingRollout(index=index, segments=segments, temperature=1.0))
    group = Group(
        run="bench", split=Split.TRAIN, number=number, source="random", sample_id=str(number), size=len(lengths)
    )
    return TrainingGroup(group=group, rollouts=tuple(rollouts))


@torch.no_grad()
def _sampling_logprobs(model: Any, prompt: list[int], answer: list[int]) -> list[float]:  # noqa: ANN401
    logits = model(torch.tensor([prompt + answer]), logits_to_keep=len(answer) + 1).logits[0, :-1]
    logprobs = logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
    values: list[float] = (logprobs + RATIO_NOISE * torch.randn(len(answer))).clamp(max=0.0).tolist()
    return values


def _make_outcome(group: TrainingGroup) -> Outcome:
    rewards = (RolloutOutcome(index=one.index, valid=True, reward=float(one.index % 2)) for one in group.rollouts)
    return Outcome(
        group=group.group, fate=Fate.TRAINED, step=1, rollouts=tuple(rewards), oldest_version=0, created_ns=1
    )
