"""Over-long shaping: answers near the limit are punished softly, longer ones in full (DAPO, arXiv 2503.14476, 3.4)."""

from typing import Annotated, Any

from pydantic import Field

from tristream.verifiers.contract import Abstain, Rollout, Unscorable
from tristream.verifiers.definition import verifier
from tristream.verifiers.scorers.parameters import refuse_unknown
from tristream.wire.verifiers import BUILT_IN_VERSIONS

Tokens = Annotated[int, Field(strict=True, ge=1, le=2**31)]


@verifier(name="length", version=BUILT_IN_VERSIONS["length"], components={"length": (-1.0, 0.0)})
def score_length(
    rollout: Rollout,
    /,
    *,
    max_tokens: Tokens,
    buffer_tokens: Tokens | None = None,
    **others: Any,  # noqa: ANN401 - V-Triune's requests have more
) -> float:
    """0 up to ``max_tokens - buffer_tokens``, falling to -1 at ``max_tokens``; the buffer is a fifth by default.

    Abstains where nothing says how many tokens were sampled.
    """
    refuse_unknown(score_length, others)
    buffer = max(1, max_tokens // 5) if buffer_tokens is None else buffer_tokens
    if buffer > max_tokens:
        raise Unscorable(f"buffer_tokens is {buffer}, more than max_tokens, which is {max_tokens}")
    if rollout.num_sampled_tokens == 0 and rollout.text:
        raise Abstain("the number of sampled tokens is unknown")
    excess = rollout.num_sampled_tokens - (max_tokens - buffer)
    return max(-1.0, min(0.0, -excess / buffer))
