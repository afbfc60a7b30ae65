"""A learner that computes nothing, as a process: the learner itself, with an engine whose weights are a counter.

    python -m bench.null_stream.learner --run RUN.json [--pace-file FILE]

It takes batches, refuses what must not be trained, publishes weights, versions and reports, writes checkpoints and
commits them as the learner does; only forward, backward and update are left out. A pace file holds the seconds that a
step shall take; it may be changed while the run goes on.
"""

import argparse
import json
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tristream.cli.main import end_in_one_line
from tristream.config.load import load_run_file
from tristream.config.parts import LearnerSettings
from tristream.learner.batch_client import BatchClient, Caller
from tristream.learner.learner import Connections, Learner
from tristream.learner.main import open_office, run_identity
from tristream.learner.publishing import Office
from tristream.learner.ranks import Ranks
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.flops import ModelFlops
from tristream.learner.training.step_metrics import STATISTICS
from tristream.learner.training.train_step import StepResult
from tristream.learner.training.updates import Answers
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.errors import StoppedError
from tristream.runtime.part import start_part
from tristream.runtime.status import PartReporter
from tristream.runtime.store import open_store
from tristream.wire.batches import Batch
from tristream.wire.events import Outcome, Part, PartState

STATE_FILE = "steps.json"
NO_MODEL = ModelFlops(num_body_parameters=0, num_head_parameters=0, attention_width=0, peak_flops_per_second=1.0)


class NullTraining:
    """Counts the steps that it was given."""

    def __init__(self, epoch: int, pace_file: Path | None) -> None:
        self._epoch = epoch
        self._pace_file = pace_file
        self._num_steps = 0
        self.policy = self

    def packing_rules(self) -> None:
        """Nothing is packed."""

    def train(self) -> None:
        """One step more."""
        self._num_steps += 1
        if self._pace_file is not None:
            time.sleep(float(self._pace_file.read_text(encoding="utf-8")))

    def full_weights(self) -> dict[str, Tensor]:
        """What identifies these weights: the steps, and the learner that made them."""
        return {"steps": torch.tensor([self._num_steps, self._epoch])}

    def save_state(self, folder: Path) -> None:
        """Write the count."""
        (folder / STATE_FILE).write_text(json.dumps(self._num_steps), encoding="utf-8")

    def load_state(self, folder: Path) -> None:
        """Read the count."""
        self._num_steps = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))


class NullLearner(Learner):
    """Trains in no time."""

    def _train(self, batch: Batch, outcomes: tuple[Outcome, ...], answers: Answers) -> StepResult:
        self._report(PartState.READY)
        training: Any = self._engine
        training.train()
        metrics = {"loss": 0.0, "grad_norm": 0.0, "skipped_updates": 0.0, "model_tokens": 0.0, "attended_tokens": 0.0}
        return StepResult(
            metrics=metrics,
            layer_grad_norms={},
            statistics=torch.zeros(0, len(STATISTICS), dtype=torch.float64),
            forward_backward_seconds=0.0,
            optimizer_seconds=0.0,
        )


def train(settings: LearnerSettings, office: Office, stop: threading.Event, pace_file: Path | None) -> None:
    """Train to the last step."""
    epoch, reporter = office.lease.epoch, office.reporter
    ranks = Ranks(0, 1, stop=stop, report_waiting=lambda what: reporter.report(PartState.READY, what))
    client = BatchClient(
        settings.assembly.address,
        Caller(run=settings.run.id, world_size=1, epoch=epoch, instance=reporter.instance),
        stop=stop,
        report_waiting=lambda what: reporter.report(PartState.READY, what),
        check=office.lease.check,
    )
    store = open_store(settings.store, settings.run.folder)
    connections = Connections(ranks=ranks, epoch=epoch, office=office, store=store, client=client)
    training: Any = NullTraining(epoch, pace_file)
    NullLearner(settings, training, connections, run_identity(settings, 1), flops=NO_MODEL).run()


def main() -> None:
    """Train until the last step, or until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--pace-file", type=Path, help="holds the seconds of a step")
    arguments = parser.parse_args()
    settings = LearnerSettings.of(load_run_file(arguments.run, environment={}))
    _, stop = start_part(Part.LEARNER)
    start_process_group()
    reporter = PartReporter(settings.run.folder, settings.run.id, Part.LEARNER)
    say = partial(reporter.report, PartState.STARTING)
    bus = KafkaBus(settings.run.id, settings.bus, Part.LEARNER, stop=stop, say=say)
    office: Office | None = None
    try:
        office = open_office(settings, bus, reporter, stop)
        train(settings, office, stop, arguments.pace_file)
    except StoppedError:
        pass
    finally:
        if office is not None:
            office.lease.close()
        bus.close()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    end_in_one_line(main)
