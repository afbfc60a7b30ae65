"""Named algorithms: each is a choice of the parameters of ``[learner.algorithm]``, with its formula and source."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One algorithm of the literature, as parameters."""

    summary: str
    formula: str
    """``r`` is the ratio of new to old policy, ``A`` the advantage, ``t`` a token, ``i`` a rollout, ``g`` a group."""
    source: str
    parameters: Mapping[str, Any]
    """Defaults that differ from those of ``AlgorithmSection``."""


CLIPPED = "l_t = -min(r_t A_i, clip(r_t, 1 - clip_low, 1 + clip_high) A_i)"
GROUP_STD = "A_i = (R_i - mean_g) / (std_g + advantage_epsilon)"
TOKEN_MEAN = "loss = sum of l_t over the batch / its tokens"
SEQUENCE_MEAN = "loss = mean over rollouts of the mean of l_t"

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "vtriune": Preset(
            summary="GRPO's advantage, clip-higher, mean over all tokens of the batch, no KL",
            formula=f"{GROUP_STD}; {CLIPPED}; {TOKEN_MEAN}",
            source="V-Triune (Ma et al. 2025, arXiv 2505.18129), section 3; the loss is DAPO's",
            parameters={},
        ),
        "grpo": Preset(
            summary="group-relative advantage, mean over each answer and then over answers, KL to a reference",
            formula=f"{GROUP_STD}; {CLIPPED}; {SEQUENCE_MEAN} + kl_coefficient * k3",
            source="GRPO (Shao et al. 2024, arXiv 2402.03300), equations 3 and 4; KL coefficient of section 4.2",
            parameters={"aggregation": "sequence_mean", "clip_high": 0.2, "kl_coefficient": 0.04},
        ),
        "dapo": Preset(
            summary="clip-higher, mean over all tokens of the batch, and a penalty for answers that get too long",
            formula=f"R_i gets the penalty of answers near their limit; {GROUP_STD}; {CLIPPED}; {TOKEN_MEAN}",
            source="DAPO (Yu et al. 2025, arXiv 2503.14476), equations 8 to 13; groups without variance never train",
            parameters={"overlong_penalty": 1.0},
        ),
        "dr_grpo": Preset(
            summary="no division by the deviation, and none by lengths: biases of GRPO removed",
            formula=f"A_i = R_i - mean_g; {CLIPPED}; loss = sum of l_t / (rollouts * longest answer)",
            source="Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), section 3.2",
            parameters={"advantage": "group_mean", "aggregation": "fixed_length", "clip_high": 0.2},
        ),
        "gspo": Preset(
            summary="one ratio an answer: the geometric mean of those of its tokens",
            formula=f"r_i = exp(mean over t of log r_t), in place of r_t; {GROUP_STD}; {CLIPPED}; {SEQUENCE_MEAN}",
            source="GSPO (Zheng et al. 2025, arXiv 2507.18071), equations 5 to 7; clip range of section 5.1",
            parameters={
                "ratio": "sequence",
                "aggregation": "sequence_mean",
                "clip_low": 3e-4,
                "clip_high": 4e-4,
            },
        ),
        "cispo": Preset(
            summary="the ratio is a weight that is cut and has no gradient, so that each token keeps one",
            formula=f"{GROUP_STD}; l_t = -sg(clip(r_t, 1 - clip_low, 1 + clip_high)) A_i log p_t; {TOKEN_MEAN}",
            source=(
                "CISPO (MiniMax-M1 2025, arXiv 2506.13585), equations 4 and 5; no lower bound, and the upper bound 5 of"
                " ScaleRL (Khatri et al. 2025, arXiv 2510.13786)"
            ),
            parameters={"loss": "cispo", "clip_low": 1.0, "clip_high": 4.0},
        ),
    }
)
"""The algorithms that ``type`` names; the first is the default."""
