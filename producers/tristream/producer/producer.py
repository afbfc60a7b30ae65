"""The producer: takes prompts, answers each G times, publishes the rollouts.

    poll prompts -> evaluation prompts, each round with its pinned weights
                 -> training prompts, with the newest weights
                 -> flush -> commit

Prompts are committed only after their rollouts are acknowledged: a producer that dies leaves its
prompts to the next one, once its session has timed out. A prompt may so be answered twice, with the same
identities. Every prompt taken is answered: one that the model cannot answer gets empty rollouts that
finish with ``error``.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tristream.config.rollout import RolloutSection
from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import EncodedPrompt, PromptEncoder
from tristream.producer.engines.protocol import Completion, Engine
from tristream.producer.policy_following import PolicyFollower
from tristream.producer.rollout_making import make_failed_rollout, make_request, make_rollout
from tristream.runtime.bus.protocol import Bus, Reader
from tristream.runtime.status import PartReporter
from tristream.runtime.store import BlobError, BlobStore
from tristream.wire.events import PartState, Prompt, Split, Weights, given
from tristream.wire.topics import PROMPTS, ROLLOUTS

LOG = logging.getLogger("tristream.producer")

GROUP = "producers"
POLL_SECONDS = 0.2
LINGER_SECONDS = 0.1
"""Prompts that follow this soon are answered together: a fuller batch costs hardly more."""
FRESH_SECONDS = 5.0
"""Longest wait for weights that are fresh enough for a prompt."""
FOLLOW_SECONDS = 0.01
"""Wait for news of the policy before a batch; a consumer receives nothing in no time at all."""
PINNED_ATTEMPTS = 5
"""How often pinned weights are looked for, half a second apart."""


@dataclass(frozen=True, slots=True)
class _Work:
    prompt: Prompt
    index: int
    encoded: EncodedPrompt


@dataclass(slots=True)
class _Counts:
    rollouts: int = 0
    tokens: int = 0
    failed_prompts: int = 0
    tokens_per_second: float = 0.0


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
        self._counts = _Counts()
        self._loaded: Weights | None = None
        self._stop = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Answer prompts until a stop is asked for; the topics exist."""
        self._stop = stop
        self._report(PartState.STARTING, "what the learner announced")
        policy = PolicyFollower(self._bus)
        reader = self._bus.reader([PROMPTS], group=GROUP)
        try:
            while not stop.is_set():
                self._report(PartState.READY, "prompts from the dispatcher")
                prompts = self._take_prompts(reader)
                if prompts and self._answer(prompts, policy):
                    self._bus.flush()
                    reader.commit()
            self._report(PartState.DONE)
        finally:
            reader.close()
            policy.close()

    def _take_prompts(self, reader: Reader) -> list[Prompt]:
        """About one batch of prompts, so that other producers get their share."""
        prompts: dict[str, Prompt] = {}
        room = self._engine.num_free_slots
        timeout_seconds = POLL_SECONDS
        while room > 0:
            records = reader.poll(timeout_seconds, max_records=max(1, room // self._rollout.group_size))
            if not records:
                break
            for record in records:
                prompts[record.event.group.id] = record.event
                room -= record.event.group.size
            timeout_seconds = LINGER_SECONDS
        return list(prompts.values())

    def _answer(self, prompts: Sequence[Prompt], policy: PolicyFollower) -> bool:
        """Answer prompts with the weights they ask for; False if it was stopped before the end."""
        policy.follow(FOLLOW_SECONDS)
        pinned = {prompt.pinned_weights for prompt in prompts if prompt.pinned_weights is not None}
        for weights in sorted(pinned, key=lambda weights: weights.version):
            wanted = [prompt for prompt in prompts if prompt.pinned_weights == weights]
            if self._load_pinned(weights, policy):
                self._generate(wanted)
            elif not self._stop.is_set():
                self._fail(wanted, f"the weights of version {weights.version} are gone")
        unpinned = [prompt for prompt in prompts if prompt.pinned_weights is None]
        if unpinned and self._load_newest(self._oldest_fresh_version(unpinned), policy):
            self._generate(unpinned)
        return not self._stop.is_set()

    def _oldest_fresh_version(self, prompts: Sequence[Prompt]) -> int:
        """Oldest version that is within the staleness bound at the steps these prompts are for."""
        steps = [prompt.progress.step for prompt in prompts if prompt.group.split is Split.TRAIN]
        return max(steps, default=1) - 1 - self._rollout.max_staleness

    def _load_newest(self, oldest_version: int, policy: PolicyFollower) -> bool:
        """Load the newest weights; False if stopped before they could be."""
        # The prompts came over another topic than the version they wait for, so they may be here first. After a
        # learner went back to a checkpoint the version may be long in coming: then older weights have to do.
        deadline = time.monotonic() + FRESH_SECONDS
        while not self._stop.is_set():
            newest = policy.newest
            if newest is None:
                self._report(PartState.READY, "a policy version from the learner")
            elif newest.version < oldest_version and time.monotonic() < deadline:
                self._report(PartState.READY, f"policy version {oldest_version} from the learner")
            elif self._try_load(newest):
                return True
            else:
                self._report(PartState.READY, f"weights of version {newest.version} in the store")
            policy.follow(FOLLOW_SECONDS)
        return False

    def _load_pinned(self, weights: Weights, policy: PolicyFollower) -> bool:
        """Load the weights of a version, or those that replaced them after the learner resumed."""
        for _ in range(PINNED_ATTEMPTS):
            announced = policy.announced(weights.version)
            if self._try_load(weights) or (announced not in (None, weights) and self._try_load(announced)):
                return True
            if self._stop.wait(0.5):
                break
            policy.follow(FOLLOW_SECONDS)
        return False

    def _try_load(self, weights: Weights | None) -> bool:
        if weights is None:
            return False
        if weights == self._loaded:
            return True
        try:
            path = self._blobs.fetch(weights.uri, weights.sha256)
        except BlobError as error:
            LOG.warning("weights of version %d: %s", weights.version, error)
            return False
        self._loaded = None
        self._engine.load_weights(weights.version, path)
        self._loaded = weights
        return True

    def _generate(self, prompts: Sequence[Prompt]) -> None:
        work: dict[str, _Work] = {}
        for prompt in prompts:
            try:
                self._submit(prompt, work)
            except (PolicyInputError, BlobError) as error:
                self._fail([prompt], str(error))
        started, num_tokens = time.monotonic(), 0
        while work and not self._stop.is_set():
            for completion in self._engine.step():
                self._publish(work.pop(completion.id), completion)
                num_tokens += len(completion.tokens)
            self._report(PartState.READY)
        self._counts.tokens_per_second = num_tokens / max(time.monotonic() - started, 1e-6)

    def _submit(self, prompt: Prompt, work: dict[str, _Work]) -> None:
        images = tuple(self._blobs.read_image(image) for image in prompt.images)
        encoded = self._encoder.encode(prompt.messages, images)
        for index in range(prompt.group.size):
            request = make_request(prompt, encoded, images, index)
            self._engine.submit(request)
            work[request.id] = _Work(prompt, index, encoded)

    def _publish(self, work: _Work, completion: Completion) -> None:
        text = self._encoder.decode(completion.tokens)
        turns = (given(work.encoded.tokens, work.prompt.images), completion)
        rollout = make_rollout(
            work.prompt,
            work.index,
            turns,
            prompt_text=work.encoded.text,
            text=text,
            producer=self._reporter.instance,
        )
        self._bus.publish(ROLLOUTS, rollout)
        self._counts.rollouts += 1
        self._counts.tokens += len(completion.tokens)

    def _fail(self, prompts: Sequence[Prompt], reason: str) -> None:
        for prompt in prompts:
            LOG.warning("prompt %s of source %s cannot be answered: %s", prompt.group.id, prompt.group.source, reason)
            for index in range(prompt.group.size):
                self._bus.publish(ROLLOUTS, make_failed_rollout(prompt, index, producer=self._reporter.instance))
            self._counts.failed_prompts += 1

    def _report(self, state: PartState, waiting_for: str = "") -> None:
        version = self._engine.version
        self._reporter.report(
            state,
            waiting_for,
            measures={
                **({} if version is None else {"version": version}),
                "num_rollouts": self._counts.rollouts,
                "num_tokens": self._counts.tokens,
                "num_failed_prompts": self._counts.failed_prompts,
                "tokens_per_second": round(self._counts.tokens_per_second, 1),
            },
        )
