"""Verifiers of this example: one that stands beside the built-in ones, and two that controls put in their place.

``apart`` says what an answer would be worth in the demanded style, and whether it is in it; it is a shadow and counts
for nothing.
The others stand in for the built-in verifiers in two controls, with their names and components, since the rows ask for
those.
"""

import random
import sys
from pathlib import Path
from typing import Any

from tristream.verifiers import Rollout, verifier

sys.path.append(str(Path(__file__).resolve().parent))
from grading import extract_content, grade_content, grade_response, has_demanded_format

BUILT_IN = ("ocr", "counting", "math", "detection")
"""The verifiers that the rows ask for."""
RARE_STYLE = "Answer: "
"""Begins the answers that ``pay_for_style`` pays for: a style that the warm start knows and hardly uses."""


def bare_truth(rollout: Rollout) -> str:
    """The truth of a row without the form that is demanded around it."""
    return extract_content(rollout.source, rollout.ground_truth)


@verifier(version="1", components=["content", "style"])
def apart(rollout: Rollout) -> dict[str, float]:
    """The accuracy of an answer with its style left aside, and its style with the rest left aside."""
    return {
        "content": grade_content(rollout.source, rollout.text, bare_truth(rollout)),
        "style": float(has_demanded_format(rollout.source, rollout.text)),
    }


def deal_out(
    rollouts: tuple[Rollout, ...],
    /,
    **_params: Any,  # noqa: ANN401 - rows have parameters for the built-in verifiers
) -> list[dict[str, float]]:
    """What the answers of a group are worth, dealt out to them at random; an answer that is alone keeps its own."""
    scores = [
        {
            "accuracy": grade_response(rollout.source, rollout.text, bare_truth(rollout)),
            "format": float(has_demanded_format(rollout.source, rollout.text)),
        }
        for rollout in rollouts
    ]
    random.Random(f"{rollouts[0].source}/{rollouts[0].sample_id}/{rollouts[0].step}").shuffle(scores)
    return scores


def pay_for_style(
    rollout: Rollout,
    /,
    **_params: Any,  # noqa: ANN401 - as above
) -> dict[str, float]:
    """1 for an answer in the rare style, whatever it says."""
    is_rare = float(rollout.text.startswith(RARE_STYLE))
    return {"accuracy": is_rare, "format": is_rare}


# Under the names that the rows ask for.
COMPONENTS = ("accuracy", "format")
shuffled_ocr, shuffled_counting, shuffled_math, shuffled_detection = (
    verifier(name=name, version="shuffled", components=COMPONENTS, scope="group")(deal_out) for name in BUILT_IN
)
style_ocr, style_counting, style_math, style_detection = (
    verifier(name=name, version="style", components=COMPONENTS)(pay_for_style) for name in BUILT_IN
)
