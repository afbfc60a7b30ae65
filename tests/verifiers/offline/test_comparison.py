"""Two opinions on the same rollouts, compared."""

import random

import pytest

from tristream.verifiers.offline.comparison import Judged, SourceOpinions, count_sign_changes, rank_correlation


def judged(number: int, old: list[float], new: list[float]) -> list[Judged]:
    return [
        Judged(number=number, index=index, step=1, old=before, new=after, text=f"{number}/{index}")
        for index, (before, after) in enumerate(zip(old, new, strict=True))
    ]


def test_advantages_change_their_sign_within_their_group() -> None:
    assert count_sign_changes([0.0, 1.0], [0.0, 0.5]) == 0
    assert count_sign_changes([0.0, 1.0], [1.0, 0.0]) == 2
    assert count_sign_changes([0.0, 0.0, 1.0], [0.1, 0.5, 0.3]) == 1
    assert count_sign_changes([0.5, 0.5], [0.0, 1.0]) == 0, "no advantage has no sign"


def test_equal_values_share_their_rank() -> None:
    assert rank_correlation([1.0, 2.0, 3.0], [2.0, 4.0, 9.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    assert rank_correlation([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]) == pytest.approx(1.0)
    assert rank_correlation([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 1.0]) == pytest.approx(0.0)
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert rank_correlation([0.0, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert rank_correlation([1.0, 1.0], [0.0, 1.0]) is None
    assert rank_correlation([1.0], [1.0]) is None


def test_a_source_is_compared_by_means_agreement_and_its_largest_disagreements() -> None:
    opinions = SourceOpinions("sums")
    opinions.add(judged(0, [0.0, 1.0, 1.0], [0.0, 1.0, 0.5]))
    opinions.add(judged(1, [0.0, 0.0], [0.9, 1e-9]))
    opinions.add([])
    found = opinions.compare()
    assert (found.num_rollouts, found.agreement) == (5, 0.6)
    assert found.old_mean == pytest.approx(0.4)
    assert found.new_mean == pytest.approx(0.48)
    assert [each.text for each in found.disagreements] == ["1/0", "0/2"]


def test_only_the_largest_disagreements_are_kept() -> None:
    opinions, generator = SourceOpinions("sums"), random.Random(1)
    news = [generator.random() for _ in range(500)]
    for number, new in enumerate(news):
        opinions.add(judged(number, [0.0], [new]))
    assert [each.new for each in opinions.compare().disagreements] == sorted(news, reverse=True)[:5]


def test_a_source_without_rollouts_has_no_numbers() -> None:
    found = SourceOpinions("sums").compare()
    assert (found.num_rollouts, found.agreement, found.rank_correlation) == (0, 0.0, None)
