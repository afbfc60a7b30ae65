"""The producer: takes prompts, answers each G times, publishes the rollouts.

    poll prompts -> evaluation prompts, each round with its pinned weights
                 -> training prompts, with the newest weights
                 -> flush -> commit

Prompts are committed only after their rollouts are acknowledged: a producer that dies leaves its
prompts to the next one, once its session has timed out. A prompt may so be answered twice, with the same
identities. Every prompt taken is answered: one that cannot be answered gets empty rollouts that finish with
``error`` and say why.
"""

import threading
from collections.abc import Sequence

from tristream.config.rollout import RolloutSection
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.answering import Answerer, Counts
from tristream.producer.engines.protocol import Engine
from tristream.producer.policy_following import PolicyFollower
from tristream.producer.prompt_reading import PromptReader
from tristream.producer.weights_loading import WeightsLoader
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.errors import StoppedError
from tristream.runtime.status import PartReporter
from tristream.runtime.store import BlobStore
from tristream.wire.events import PartState, Prompt, Split


class Producer:
    """Answers the prompts of one run until it is stopped."""

    def __init__(
        self,
        rollout: RolloutSection,
        bus: Bus,
        blobs: BlobStore,
        encoder: PromptEncoder,
        engine: Engine,
        reporter: PartReporter,
    ) -> None:
        self._rollout = rollout
        self._bus = bus
        self._blobs = blobs
        self._encoder = encoder
        self._engine = engine
        self._reporter = reporter
        self._counts = Counts()

    def run(self, stop: threading.Event) -> None:
        """Answer prompts until a stop is asked for; the topics exist.

        Raises:
            TryAgainError: the group of the producers makes no progress, or the engine answers nothing.
            BusError: the broker lost something for good.
        """
        self._report(PartState.STARTING, "what the learner announced")
        open_readers: list[PolicyFollower | PromptReader] = []
        try:
            open_readers.append(policy := PolicyFollower(self._bus))
            open_readers.append(reader := PromptReader(self._bus, self._wait_for))
            loader = WeightsLoader(self._engine, self._blobs, policy, say=self._wait_for, stop=stop)
            self._run(reader, loader, stop)
            self._report(PartState.DONE)
        except StoppedError:
            self._report(PartState.DONE)
        finally:
            close_together(open_readers)

    def _run(self, reader: PromptReader, loader: WeightsLoader, stop: threading.Event) -> None:
        answerer = Answerer(
            self._bus,
            self._blobs,
            self._encoder,
            self._engine,
            instance=self._reporter.instance,
            say=self._wait_for,
            stop=stop,
        )
        self._counts = answerer.counts
        while not stop.is_set():
            prompts = reader.take(self._engine.num_free_slots, self._rollout.group_size)
            if not prompts:
                continue
            self._answer(prompts, answerer, loader)
            if stop.is_set():  # perhaps before the end
                return
            self._bus.flush()
            reader.commit()
            answerer.require_engine()

    def _answer(self, prompts: Sequence[Prompt], answerer: Answerer, loader: WeightsLoader) -> None:
        """Answer prompts with the weights they ask for."""
        pinned = {prompt.pinned_weights for prompt in prompts if prompt.pinned_weights is not None}
        for weights in sorted(pinned, key=lambda weights: weights.version):
            wanted = [prompt for prompt in prompts if prompt.pinned_weights == weights]
            if loader.load_pinned(weights):
                answerer.answer(wanted)
            elif not loader.is_stopped:
                for prompt in wanted:
                    answerer.fail(prompt, f"it asks for weights that are gone: {loader.problem}")
        unpinned = [prompt for prompt in prompts if prompt.pinned_weights is None]
        if unpinned and loader.load_newest(self._oldest_fresh_version(unpinned)):
            answerer.answer(unpinned)

    def _oldest_fresh_version(self, prompts: Sequence[Prompt]) -> int:
        """Oldest version that is within the staleness bound at the steps these prompts are for."""
        steps = [prompt.progress.step for prompt in prompts if prompt.group.split is Split.TRAIN]
        return max(steps, default=1) - 1 - self._rollout.max_staleness

    def _wait_for(self, what: str) -> None:
        self._report(PartState.READY, what)

    def _report(self, state: PartState, waiting_for: str = "") -> None:
        version, counts = self._engine.version, self._counts
        self._reporter.report(
            state,
            waiting_for,
            measures={
                **({} if version is None else {"version": version}),
                "num_rollouts": counts.rollouts,
                "num_tokens": counts.tokens,
                "num_failed_prompts": counts.failed_prompts,
                "num_failed_rollouts": counts.failed_rollouts,
                "tokens_per_second": round(counts.tokens_per_second, 1),
            },
        )


def close_together(readers: Sequence[PolicyFollower | PromptReader]) -> None:
    """Close readers at the same time: each may wait for a broker that is away."""
    threads = [threading.Thread(target=reader.close, daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
