"""The built-in verifiers of the benchmark, but that some answers do harm: a marker in the text says which."""

import ctypes
from typing import Any

from tristream.verifiers import Rollout, verifier
from tristream.verifiers.registry import BUILT_INS

LOOP, HOG, CRASH = "@@loop@@", "@@hog@@", "@@crash@@"
MATH, DETECTION = BUILT_INS["math"], BUILT_INS["detection"]


def harm(text: str) -> None:
    """Do what the marker says, if there is one."""
    if "@@" not in text:
        return
    if LOOP in text:
        while True:
            pass
    if HOG in text:
        hog = []
        while True:
            hog.append(bytearray(2**24))
    if CRASH in text:
        ctypes.string_at(0)  # the first process of a namespace, such as a child, ignores a signal that it sends itself


@verifier(name="math", version="bench", components=MATH.components, truth=MATH.parse_truth)
def hostile_math(rollout: Rollout, **params: Any) -> Any:  # noqa: ANN401 - those of the real one
    """As ``math``, with harm."""
    harm(rollout.text)
    return MATH(rollout, **MATH.check_parameters(params))


@verifier(name="detection", version="bench", components=DETECTION.components, truth=DETECTION.parse_truth)
def hostile_detection(rollout: Rollout, **params: Any) -> Any:  # noqa: ANN401 - those of the real one
    """As ``detection``, with harm."""
    harm(rollout.text)
    return DETECTION(rollout, **DETECTION.check_parameters(params))
