"""What ends a completion, besides its length: tokens and texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tristream.policy.prompt_encoder import PromptEncoder
from tristream.wire.arrays import Tokens
from tristream.wire.events import Sampling

EDGE_TOKENS = 6
"""Tokens decoded before those that a text may be made of, since decoding treats the first ones specially."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """Of one request."""

    token_ids: frozenset[int]
    texts: tuple[str, ...]
    special_ids: frozenset[int]
    """Tokens without text."""
    decode: Callable[[Sequence[int]], str]

    def ends_with_text(self, tokens: Sequence[int]) -> bool:
        """Whether the newest token completes one of the texts; only as many tokens are decoded as it may be made of."""
        if not self.texts:
            return False
        # Each token of a text brings a byte of it at least.
        num_wanted = max(len(text.encode()) for text in self.texts) + EDGE_TOKENS
        tail = [token for token in tokens[-2 * num_wanted :] if token not in self.special_ids]
        if len(tail) < num_wanted:
            tail = [token for token in tokens if token not in self.special_ids]
        decoded = self.decode(tail[-num_wanted:])
        return any(text in decoded for text in self.texts)


class StoppingRules:
    """What ends the completions of a model.

    Args:
        encoder: of the model.
        generation_config: of the model; its ``eos_token_id`` is a token, a list of them, or None.
    """

    def __init__(self, encoder: PromptEncoder, generation_config: object) -> None:
        configured = getattr(generation_config, "eos_token_id", None)
        tokens = configured if isinstance(configured, list) else [configured]
        self._token_ids = frozenset(token for token in (*tokens, encoder.tokenizer.eos_token_id) if token is not None)
        self._special_ids = frozenset(encoder.tokenizer.all_special_ids)
        self._encoder = encoder

    def of(self, sampling: Sampling) -> Stopping:
        """Those of a request."""
        return Stopping(
            token_ids=self._token_ids.union(sampling.stop_token_ids),
            texts=tuple(text for text in sampling.stop if text),
            special_ids=self._special_ids,
            decode=lambda tokens: self._encoder.decode(Tokens.of(tokens)),
        )
