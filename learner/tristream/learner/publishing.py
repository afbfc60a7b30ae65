"""What rank 0 says to the rest of the stream: weights, policy versions and step reports, under its lease.

A version is told twice: when its weights are there, and again when a checkpoint has made it durable.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from tristream.config.parts import LearnerSettings
from tristream.learner.weights import publish_weights, remove_old_weights
from tristream.runtime.bus.protocol import Bus, EventTooLargeError
from tristream.runtime.lease import Lease
from tristream.runtime.status import PartReporter
from tristream.runtime.store import BlobStore
from tristream.wire.events import Ledger, PolicyVersion, StepReport, Weights
from tristream.wire.topics import POLICY, STEPS

LOG = logging.getLogger("tristream.learner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Office:
    """What rank 0 alone holds."""

    bus: Bus
    lease: Lease
    reporter: PartReporter


class Publisher:
    """Publishes for a learner; every method raises ``UserError`` once the learner has a successor."""

    def __init__(self, settings: LearnerSettings, office: Office, store: BlobStore) -> None:
        self._settings = settings
        self._office = office
        self._store = store
        self._weights: Weights | None = None

    def write_weights(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Put the weights of a version into the store, and remove those that it puts out of use.

        Raises:
            NoSpaceError: the disk is full.
            StoreUnavailableError: the store does not answer.
        """
        epoch = self._office.lease.epoch
        self._office.lease.check()
        self._weights = publish_weights(self._store, version, tensors, self._settings, epoch=epoch)
        remove_old_weights(self._store, version, self._settings, epoch=epoch)

    def announce(self, durable: Ledger) -> None:
        """Tell the newest version, and what the newest checkpoint settles.

        Raises:
            BusError: it could not be published.
        """
        assert self._weights is not None, "weights are written before they are announced"
        self._office.lease.check()
        self._office.bus.publish(
            POLICY,
            PolicyVersion(
                run=self._settings.run.id,
                weights=self._weights,
                total_steps=self._settings.run.steps,
                durable=durable,
                created_ns=time.time_ns(),
            ),
        )
        self._office.bus.flush()

    def report(self, report: StepReport) -> None:
        """Tell what a step did.

        Raises:
            BusError: it could not be published.
        """
        self._office.lease.check()
        try:
            self._office.bus.publish(STEPS, report)
        except EventTooLargeError as error:
            LOG.warning("the report of step %d goes without the statistics of its rollouts: %s", report.step, error)
            self._office.bus.publish(STEPS, replace(report, rollouts=()))
        self._office.bus.flush()
