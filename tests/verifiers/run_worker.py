"""A verifier process for the integration tests: the real one, with one more verifier, and on demand a bug.

Usage: run_worker.py SETTINGS.json [GROUP_ID_THAT_HITS_THE_BUG]
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import misbehaving_verifiers

from tristream.config.run_file import RunFile
from tristream.verifiers import main as worker_main
from tristream.verifiers import registry
from tristream.verifiers.service import worker
from tristream.verifiers.service.scoring import RawRecord, RolloutScorer


class BuggyScorer(RolloutScorer):
    group_id = ""

    async def handle(self, records: Sequence[RawRecord]) -> None:
        if any(record.key.decode() == self.group_id for record in records):
            raise RuntimeError("a bug in the worker")
        await super().handle(records)


def main() -> None:
    registry.VERIFIERS = {**registry.VERIFIERS, **misbehaving_verifiers.MISBEHAVING}
    if len(sys.argv) > 2:
        BuggyScorer.group_id = sys.argv[2]
        vars(worker)["RolloutScorer"] = BuggyScorer
    worker_main.main(RunFile.model_validate_json(Path(sys.argv[1]).read_text()))


if __name__ == "__main__":
    main()
