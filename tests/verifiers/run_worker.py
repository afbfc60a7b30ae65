"""A verifier process for the integration tests: the real one, with one more verifier, and on demand a bug.

Usage: run_worker.py SETTINGS.json [--version VERSION] [--bug-at GROUP_ID]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from misbehaving_verifiers import MISBEHAVING, MisbehavingVerifier

from tristream.config.parts import VerifierSettings
from tristream.runtime.bus.protocol import Record
from tristream.runtime.errors import UserError
from tristream.verifiers import main as verifier_main
from tristream.verifiers import registry
from tristream.verifiers.service import worker
from tristream.verifiers.service.scoring import RolloutScorer


class BuggyScorer(RolloutScorer):
    group_id = ""

    async def handle(self, records: Sequence[Record[bytes]]) -> None:
        if any(record.key == self.group_id for record in records):
            raise RuntimeError("a bug in the worker")
        await super().handle(records)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", type=Path)
    parser.add_argument("--version", default=MisbehavingVerifier.version)
    parser.add_argument("--bug-at", default="")
    arguments = parser.parse_args()
    MisbehavingVerifier.version = arguments.version
    registry.VERIFIERS = {**registry.VERIFIERS, **MISBEHAVING}
    if arguments.bug_at:
        BuggyScorer.group_id = arguments.bug_at
        vars(worker)["RolloutScorer"] = BuggyScorer
    try:
        verifier_main.main(VerifierSettings.model_validate_json(arguments.settings.read_text()))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
