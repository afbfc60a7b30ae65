"""Status files say what parts say; what is missing or broken is nobody's."""

from pathlib import Path

from tristream.local.status_files import read_status_files
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part, PartState


def test_what_a_part_wrote_is_read_back_and_broken_files_are_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    reporter = PartReporter(folder, "demo", Part.MONITOR)
    reporter.report(PartState.READY, "ClickHouse", address="http://x/", measures={"num_events": 3})
    (folder.status / "learner.json").write_text('{"state": "ready"')
    (folder.status / "producer.json").write_text('{"state": "asleep", "time": 1}')
    (status,) = read_status_files(folder.status, "demo")
    assert (status.part, status.state, status.waiting_for) == (Part.MONITOR, PartState.READY, "ClickHouse")
    assert (status.instance, status.address, status.measures) == (reporter.instance, "http://x/", {"num_events": 3})
