"""A status file is always whole and tells the newest state."""

from pathlib import Path

from tristream.runtime.status import StatusFile, read_status


def test_the_newest_state_and_all_facts_are_read_back(tmp_path: Path) -> None:
    status = StatusFile(tmp_path, "learner")
    status.report("starting", "the broker")
    status.report("ready", step=3)
    status.report("ready", "a batch", tokens=5)
    read = read_status(tmp_path, "learner")
    assert read is not None
    assert (read["state"], read["waiting_for"], read["step"], read["tokens"]) == ("ready", "a batch", 3, 5)


def test_unchanged_states_are_not_written_too_often(tmp_path: Path) -> None:
    status = StatusFile(tmp_path, "learner", min_interval_seconds=60)
    status.report("ready", step=1)
    status.report("ready", step=2)
    read = read_status(tmp_path, "learner")
    assert read is not None
    assert read["step"] == 1


def test_a_part_that_has_not_reported_has_no_status(tmp_path: Path) -> None:
    assert read_status(tmp_path, "learner") is None
