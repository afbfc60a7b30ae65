"""Decoding is held against the model's own forward pass, before anything is generated.

Random prompts, with images if the model takes any, are read together and answered by given tokens: several rows share
a prompt, and the log-probability of each token is compared with that of a forward pass over its whole sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tristream.policy.attention.decoding_cache import DecodingCache
from tristream.policy.proof.plain import OTHER_ATTENTION, PLAIN_ATTENTION, plain_logprobs, plainly, run_plain
from tristream.policy.proof.probes import Probes, as_tensor
from tristream.policy.proof.states import first_departure, recorded_states
from tristream.policy.proof.verdict import FAILURES, allowed_difference, difference_nats, refusal, require_same, why_not
from tristream.producer.engines.transformers.decoding_policy import DecodingPolicy, PreparedPrompt
from tristream.wire.arrays import Tokens

NUM_TOKENS = 7
"""Tokens of each answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRow:
    """A prompt, and the tokens that are taken for its answer."""

    prompt: PreparedPrompt
    answer: list[int]

    @property
    def tokens(self) -> list[int]:
        """The whole sequence."""
        return [*self.prompt.tokens.to_list(), *self.answer]


def check_decoding(policy: DecodingPolicy) -> float:
    """Hold decoding against the model's forward pass on random rows.

    Returns:
        How far log-probabilities are apart, in nats (``difference_nats``).

    Raises:
        UserError: it is more than rounding, or the model cannot be decoded at all.
    """
    rows = make_probe_rows(policy)
    try:
        decoded = score_decoded(policy, rows)
        plain = [score_plain(policy, row) for row in rows]
    except FAILURES as error:
        raise refusal(policy.model, f"cannot be decoded ({why_not(error)})") from error
    difference = difference_nats(policy.model, decoded, plain)
    require_same(
        policy.model,
        difference,
        allowed_difference(policy.model, plain, lambda: [score_plain(policy, row, OTHER_ATTENTION) for row in rows]),
        of_what="of sampled tokens",
        where=lambda: _first_departure(policy, rows),
    )
    return difference


def make_probe_rows(policy: DecodingPolicy) -> list[ProbeRow]:
    """Three rows over two prompts of different lengths."""
    probes = Probes(policy.model.config)
    images = probes.images()
    prompts = [
        PreparedPrompt(
            tokens=Tokens.of([*probes.tokens(length), *probes.placed(of_prompt), *probes.tokens(2)]), images=of_prompt
        )
        for length, of_prompt in ((9, images[:1]), (3, images[1:]))
    ]
    return [ProbeRow(prompt=prompt, answer=probes.tokens(NUM_TOKENS)) for prompt in (*prompts, prompts[0])]


@torch.inference_mode()
def score_decoded(policy: DecodingPolicy, rows: Sequence[ProbeRow]) -> list[Tensor]:
    """Log-probabilities [tokens] of each row's answer, decoded together."""
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    read = dict(zip(prompts, policy.prefill(prompts), strict=True))
    cache = DecodingCache(read[rows[0].prompt].prefix)
    order = cache.exchange([], [read[row.prompt].prefix for row in rows])
    answers = torch.tensor([rows[number].answer for number in order], device=policy.device)
    positions = torch.tensor([read[rows[number].prompt].next_position for number in order], device=policy.device)
    logits = [torch.stack([read[rows[number].prompt].logits_V for number in order])]
    logits += [policy.decode(answers[:, step], positions + step, cache) for step in range(NUM_TOKENS - 1)]
    logprobs = torch.log_softmax(torch.stack(logits, dim=1), dim=-1).gather(2, answers[:, :, None])[:, :, 0].cpu()
    return [logprobs[order.index(number)] for number in range(len(rows))]


def score_plain(policy: DecodingPolicy, row: ProbeRow, attention: str = PLAIN_ATTENTION) -> Tensor:
    """The same of one row by the model's own forward pass."""
    tokens = as_tensor(row.tokens)
    return plain_logprobs(policy.model, tokens, row.prompt.images, attention=attention)[-NUM_TOKENS:]


def _first_departure(policy: DecodingPolicy, rows: Sequence[ProbeRow]) -> str:
    """Where decoding parts from the model's own forward pass, in words: each row is computed alone."""
    for row in rows:
        policy.image_features.clear()  # so that the vision tower is seen
        with recorded_states(policy.model) as own:
            score_decoded(policy, [row])
        with plainly(policy.model), recorded_states(policy.model) as plain:
            run_plain(policy.model, as_tensor(row.tokens[:-1]), row.prompt.images)
        place = first_departure(own, plain)
        if place:
            return place
    return "only in the head, or where rows share a prompt"
