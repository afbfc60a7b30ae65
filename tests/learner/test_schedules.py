"""The learning rate of each step."""

import math

import pytest

from tristream.config.learner import LearnerSection
from tristream.learner.training.schedules import learning_rate_at


def rates(num_steps: int, **settings: object) -> list[float]:
    section = LearnerSection.model_validate({"learning_rate": 1.0, **settings})
    return [learning_rate_at(step, section, num_steps=num_steps) for step in range(1, num_steps + 1)]


def test_it_warms_up_by_equal_parts_and_then_stays() -> None:
    assert rates(6, warmup_steps=3) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_falls_by_equal_parts_from_the_first_step_after_the_warm_up() -> None:
    assert rates(6, warmup_steps=2, learning_rate_schedule="linear") == pytest.approx(
        [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]
    )


def test_cosine_falls_along_half_a_wave_to_the_final_share() -> None:
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 5)) for step in range(5)]
    assert rates(5, learning_rate_schedule="cosine", final_learning_rate_share=0.1) == pytest.approx(expected)


def test_beyond_the_last_step_it_keeps_the_final_share() -> None:
    section = LearnerSection(learning_rate=2.0, learning_rate_schedule="linear", final_learning_rate_share=0.25)
    assert learning_rate_at(9, section, num_steps=4) == 0.5
