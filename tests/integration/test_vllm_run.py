"""A short run of the digits example with a producer on vLLM, in an environment of its own."""

from pathlib import Path

import pytest

from stream_runs import ROOT, StreamRun
from tristream.runtime.archive.reader import ArchiveBus
from tristream.wire.events import Rollout, SegmentKind
from tristream.wire.topics import ROLLOUTS

PYTHON = ROOT / ".venv-vllm/bin/python"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (ROOT / ".venv-vllm/.installed").exists(), reason="there is no .venv-vllm: make vllm-env"),
]


def read_rollouts(run: StreamRun) -> list[Rollout]:
    """The rollouts on the log that the run has left."""
    reader = ArchiveBus(run.folder.archive, "digits").reader([ROLLOUTS])
    return [record.event for record in reader.read_to_end()]


def test_a_run_trains_on_rollouts_of_vllm_into_which_new_weights_come(tmp_path: Path) -> None:
    run = StreamRun(
        tmp_path,
        steps=12,
        rollout__engine__type="vllm",
        rollout__engine__python=PYTHON,
        rollout__engine__compile="false",
        rollout__engine__kv_cache_gib=0.25,
    ).start()
    code, output = run.finish(800.0)
    assert code == 0, output
    assert run.summary()["steps"] == 12
    assert run.audit().returncode == 0
    assert run.processes_left() == []
    versions = set()
    for rollout in read_rollouts(run):
        assert not rollout.error
        for segment in rollout.segments:
            if segment.kind is SegmentKind.SAMPLED:
                ends = [span.end for span in segment.version_spans]
                assert [span.start for span in segment.version_spans] == [0, *ends[:-1]]
                assert ends[-1] == len(segment.tokens)
                versions.add(tuple(span.version for span in segment.version_spans))
    assert {version for spans in versions for version in spans} >= {0, 12}
    assert [spans for spans in versions if len(spans) > 1], "no rollout went on with newer weights"
