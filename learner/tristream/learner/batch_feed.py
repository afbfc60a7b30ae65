"""The batches of a run, as all ranks agree on them: the same step of the same assembler, and nothing twice."""

import hashlib
import logging
from dataclasses import dataclass

from tristream.learner.batch_client import BatchClient, NotAttachedError, StepRefusedError
from tristream.learner.ranks import Ranks
from tristream.learner.standing import explain_refusal
from tristream.runtime.errors import TryAgainError
from tristream.wire.batches import Batch
from tristream.wire.codecs.base import MalformedEventError
from tristream.wire.events import Ledger

LOG = logging.getLogger("tristream.learner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What one rank was given, as it tells the others."""

    assembler_epoch: int
    is_attached: bool = True
    digest: str = ""
    """Tells batches of different assemblers apart."""
    refusal: str = ""
    """Why the batch must not be trained."""


class BatchFeed:
    """Takes batches from the assembler for all ranks; all of them call every method together."""

    def __init__(self, client: BatchClient, ranks: Ranks, *, groups_per_step: int) -> None:
        self._client = client
        self._ranks = ranks
        self._groups_per_step = groups_per_step
        self._batch: Batch | None = None

    def attach(self, ledger: Ledger) -> None:
        """Attach on rank 0, while the others wait.

        Raises:
            StoppedError: told to stop while waiting.
            UserError: as ``BatchClient.attach``.
        """

        def attach_and_tell() -> int:
            self._client.attach(ledger)
            return self._client.assembler_epoch

        self._know_epochs(self._ranks.on_rank_0(attach_and_tell))
        LOG.info("attached at step %d to an assembler of epoch %d", ledger.step, self._client.assembler_epoch)

    def next_batch(self, ledger: Ledger) -> Batch:
        """The shard of this rank for the step after ``ledger``.

        Raises:
            StoppedError: told to stop while waiting.
            UserError: as ``BatchClient.next_batch``.
            TryAgainError: the assembler gives what must not be trained, after attaching anew too.
        """
        was_refused = False
        while True:
            given = self._ranks.together(lambda: self._ask(ledger))
            self._know_epochs(*(one.assembler_epoch for one in given))
            refusal = next((one.refusal for one in given if one.refusal), "")
            if not all(one.is_attached for one in given):
                LOG.info("the assembler restarted")
                self.attach(ledger)
            elif refusal and was_refused:
                raise TryAgainError(f"the assembler gives a batch that must not be trained: {refusal}")
            elif refusal:
                LOG.error("attaching anew, because a batch must not be trained: %s", refusal)
                was_refused = True
                self.attach(ledger)
            elif len({(one.digest, one.assembler_epoch) for one in given}) > 1:
                self._ranks.pause("one assembler to answer all ranks")
            else:
                assert self._batch is not None, "all ranks were given a batch"
                return self._batch

    def _ask(self, ledger: Ledger) -> Given:
        step = ledger.step + 1
        try:
            batch = self._client.next_batch(step, self._ranks.rank)
        except NotAttachedError:
            return Given(assembler_epoch=self._client.assembler_epoch, is_attached=False)
        except StepRefusedError as error:
            return Given(assembler_epoch=self._client.assembler_epoch, refusal=str(error))
        except MalformedEventError as error:
            return Given(assembler_epoch=self._client.assembler_epoch, refusal=f"it is malformed: {error}")
        self._batch = batch
        agreed = (batch.step, batch.trained, batch.dropped, batch.num_global_tokens, batch.num_global_rollouts)
        return Given(
            assembler_epoch=self._client.assembler_epoch,
            digest=hashlib.sha256(repr(agreed).encode()).hexdigest(),
            refusal=explain_refusal(ledger, batch, self._groups_per_step),
        )

    def _know_epochs(self, *epochs: int) -> None:
        self._client.assembler_epoch = max(self._client.assembler_epoch, *epochs)
