"""A penalty that grows as an answer comes near its greatest length."""


def overlong_penalty(num_tokens: int, *, penalty: float, share: float, max_tokens: int) -> float:
    """Soft overlong punishment: DAPO (Yu et al. 2025, arXiv 2503.14476), equation 13, with the opposite sign.

    It is::

        0                                                          up to max_tokens * (1 - share)
        penalty * (num_tokens - max_tokens * (1 - share)) / (max_tokens * share)    up to max_tokens
        penalty                                                    beyond

    Args:
        num_tokens: length of the answer, in sampled tokens.
        penalty: the greatest penalty; the paper's is 1.
        share: of the longest answer, where the penalty grows; the paper's is 4096 of 20480 tokens.
        max_tokens: the longest answer.
    """
    room = max_tokens * share
    return penalty * min(1.0, max(0.0, (num_tokens - max_tokens + room) / room))
