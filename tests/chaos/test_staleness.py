"""With a learner slower than the producer nothing older than the bound is trained, and what is too old is told."""

from collections import Counter
from pathlib import Path

import pytest

from chaos_stream import only_in_full, started_chaos
from tristream.runtime.archive.reader import ArchiveBus
from tristream.wire.events import DropReason, Fate
from tristream.wire.topics import OUTCOMES

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 60


@only_in_full
@pytest.mark.parametrize("max_staleness", [0, 1, 4])
def test_nothing_older_than_the_bound_is_trained_however_slow_the_learner_is(
    max_staleness: int, tmp_path: Path
) -> None:
    with started_chaos(
        tmp_path,
        "embedded",
        steps=STEPS,
        with_monitor=True,
        step_seconds=0.5,
        rollout__max_staleness=max_staleness,
        evaluation__every=STEPS,
    ) as stream:
        stream.wait_until(lambda: stream.version >= STEPS // 2, 300.0, "half of the run")
        stream.finish()
        stream.must_balance()
    archive = ArchiveBus(stream.settings.run.folder.archive, stream.settings.run.id)
    outcomes = [record.event for record in archive.reader([OUTCOMES]).read_to_end()]
    ages = Counter(rollout.age for outcome in outcomes if outcome.fate is Fate.TRAINED for rollout in outcome.rollouts)
    stale = [outcome for outcome in outcomes if outcome.drop_reason is DropReason.STALE]
    print(f"\nstaleness bound {max_staleness}: rollouts by age {dict(sorted(ages.items()))}, {len(stale)} groups stale")
    assert sum(ages.values()) == STEPS * stream.settings.rollout.groups_per_step * stream.settings.rollout.group_size
    assert max(ages) == max_staleness, "the bound is reached, and kept"
