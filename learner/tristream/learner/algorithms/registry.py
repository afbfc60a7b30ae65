"""The algorithms by the section of the run file that names them."""

from collections.abc import Callable
from typing import Any

from tristream.config.algorithms import AlgorithmSection, GrpoSection
from tristream.config.base import Section
from tristream.learner.algorithms.grpo import make_grpo
from tristream.learner.algorithms.protocol import Algorithm

ALGORITHMS: dict[type[Section], Callable[[Any], Algorithm]] = {GrpoSection: make_grpo}
"""One entry a type of ``[learner.algorithm]``."""


def make_algorithm(section: AlgorithmSection) -> Algorithm:
    """The algorithm that a run file names, with its parameters."""
    return ALGORITHMS[type(section)](section)
