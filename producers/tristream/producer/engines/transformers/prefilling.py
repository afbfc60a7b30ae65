"""Prompts that the model has read, for as long as requests may want them.

Prompts are read several at once, those of the next requests too, since a model reads eight hardly slower than two. What
was read stays as long as a request that shares the prompt is in work, and a few of the newest for longer.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary, WeakSet

from tristream.producer.engines.transformers.decoding_policy import DecodingPolicy, Prefilled, PreparedPrompt

PREFILL_TOKENS = 8192
"""Most prompt tokens, padding included, that are read at once."""
PREFILL_PROMPTS = 8
"""Prompts of waiting requests that are read with one whose turn it is."""
KEPT_TOKENS = 8192
"""Prompt tokens kept though no request wants them at the moment."""


class PrefilledPrompts:
    """What the model has read with the weights that it has."""

    def __init__(self, policy: DecodingPolicy) -> None:
        self._policy = policy
        self._read: WeakKeyDictionary[PreparedPrompt, Prefilled] = WeakKeyDictionary()
        self._taken: WeakSet[PreparedPrompt] = WeakSet()
        self._kept: OrderedDict[PreparedPrompt, None] = OrderedDict()
        self._num_kept_tokens = 0

    def __contains__(self, prompt: PreparedPrompt) -> bool:
        """Whether it is read already."""
        return prompt in self._read

    def take(self, prompt: PreparedPrompt) -> tuple[Prefilled, bool]:
        """What was read of it, and whether it was taken before."""
        is_taken = prompt in self._taken
        self._taken.add(prompt)
        return self._read[prompt], is_taken

    def read(self, prompts: Iterable[PreparedPrompt]) -> None:
        """Read prompts, each once."""
        wanted = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._read]
        for chunk in chunks(sorted(wanted, key=lambda prompt: len(prompt.tokens)), PREFILL_TOKENS):
            for prompt, prefilled in zip(chunk, self._policy.prefill(chunk), strict=True):
                self._read[prompt] = prefilled
                self._keep(prompt)

    def clear(self) -> None:
        """Forget all: the weights are others."""
        self._read.clear()
        self._taken.clear()
        self._kept.clear()
        self._num_kept_tokens = 0

    def _keep(self, prompt: PreparedPrompt) -> None:
        self._kept[prompt] = None
        self._num_kept_tokens += len(prompt.tokens)
        while self._num_kept_tokens > KEPT_TOKENS:
            oldest, _ = self._kept.popitem(last=False)
            self._num_kept_tokens -= len(oldest.tokens)


def chunks(prompts: Sequence[PreparedPrompt], max_tokens: int) -> list[list[PreparedPrompt]]:
    """Split prompts, shortest first, so that each chunk padded to its longest fits; at least one a chunk."""
    made: list[list[PreparedPrompt]] = []
    for prompt in prompts:
        if made and (len(made[-1]) + 1) * len(prompt.tokens) <= max_tokens:
            made[-1].append(prompt)
        else:
            made.append([prompt])
    return made
