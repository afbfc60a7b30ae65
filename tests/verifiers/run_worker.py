"""A verifier process for the integration tests: the real one, and on demand a bug or a slow rebalance.

Usage: run_worker.py SETTINGS.json [--verifier NAME@VERSION] [--bug-at GROUP_ID] [--slow-resume SECONDS]
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tristream.config.parts import VerifierSettings
from tristream.runtime.errors import UserError
from tristream.verifiers import main as verifier_main
from tristream.verifiers.service import faust_consumer
from tristream.verifiers.service.scoring import RolloutScorer, TakenRecord


class BuggyScorer(RolloutScorer):
    group_id = ""

    def take(self, records: Sequence[TakenRecord]) -> None:
        if any(record.key == self.group_id for record, _ in records):
            raise RuntimeError("a bug in the worker")
        super().take(records)


class SlowConsumer(faust_consumer.WindowConsumer):
    """Takes its time between seeking to the committed offsets and going on."""

    seconds = 0.0

    async def perform_seek(self) -> None:
        await super().perform_seek()
        await asyncio.sleep(self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", type=Path)
    parser.add_argument("--verifier", default="")
    parser.add_argument("--bug-at", default="")
    parser.add_argument("--slow-resume", type=float, default=0.0)
    arguments = parser.parse_args()
    if arguments.bug_at:
        BuggyScorer.group_id = arguments.bug_at
        vars(verifier_main)["RolloutScorer"] = BuggyScorer
    if arguments.slow_resume:
        SlowConsumer.seconds = arguments.slow_resume
        vars(faust_consumer)["WindowConsumer"] = SlowConsumer
    try:
        settings = VerifierSettings.model_validate_json(arguments.settings.read_text())
        verifier_main.main(settings, arguments.verifier)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
