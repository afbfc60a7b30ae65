"""One run without the other parts: the test plays the dispatcher and the learner of a producer."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tristream.config.rollout import RolloutSection
from tristream.config.run_file import RunFile
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import Engine
from tristream.producer.environments.contract import Environment
from tristream.producer.producer import Producer
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.status import PartReporter
from tristream.runtime.store import BlobStore
from tristream.wire.events import (
    Group,
    Ledger,
    Message,
    Part,
    PartStatus,
    PolicyVersion,
    Progress,
    Prompt,
    RewardSpec,
    RewardTerm,
    Rollout,
    Sampling,
    Split,
    Weights,
)
from tristream.wire.seeds import derive_seed
from tristream.wire.topics import PARTS, POLICY, PROMPTS, ROLLOUTS

MakeImage = Callable[[int, int, int], bytes]
REWARD = RewardSpec(
    terms=(RewardTerm(id="math", verifier="math", version="1", weights={"accuracy": 1.0}),), ground_truth="4"
)
WAIT_SECONDS = 60.0


class RunningProducer:
    """A producer in a thread of its own."""

    def __init__(self, producer: Producer, instance: str) -> None:
        self.instance = instance
        self.error: BaseException | None = None
        self._producer = producer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self, seconds: float = WAIT_SECONDS) -> None:
        """Tell it to stop, and wait until it has."""
        self._stop.set()
        self.join(seconds)

    def join(self, seconds: float = WAIT_SECONDS) -> None:
        """Wait for its end."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the producer does not end"

    def _run(self) -> None:
        try:
            self._producer.run(self._stop)
        except BaseException as error:  # the test looks at it
            self.error = error


class ProducerRun:
    """One run; ``bus`` is a new one in memory unless one is given."""

    def __init__(self, settings: RunFile, make_image: MakeImage, bus: Bus | None = None) -> None:
        self.settings = settings
        self.bus: Bus = bus or MemoryBus(settings.run.id)
        self.blobs = BlobStore(settings.store.address(settings.run.folder))
        self.encoder = PromptEncoder(settings.model.path)
        self._make_image = make_image
        self._rollouts: list[Rollout] = []
        self._reader = self.bus.reader([ROLLOUTS])

    @property
    def id(self) -> str:
        """Of the run."""
        return self.bus.run

    # The learner ---------------------------------------------------------------------------------

    def publish_weights(self, version: int, folder: Path) -> Weights:
        """Announce a version whose weights differ from those of other versions, and are those of the model in shape."""
        generator = torch.Generator().manual_seed(version)
        tensors = load_file(self.settings.model.path / "model.safetensors")
        shaken = {
            name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()
        }
        save_file(shaken, folder / f"{version}.safetensors")
        return self.publish_bytes(version, (folder / f"{version}.safetensors").read_bytes())

    def publish_bytes(self, version: int, content: bytes | None = None) -> Weights:
        """Announce a version whose weights are some bytes; which ones is all the same to a table engine."""
        content = content or f"weights {version}".encode()
        path = self.settings.run.folder.path / f"{version}.weights"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        uri = self.blobs.write_file(f"weights/{version}/model.safetensors", path)
        weights = Weights(version=version, uri=uri, sha256=hashlib.sha256(content).hexdigest())
        self.announce(weights)
        return weights

    def announce(self, weights: Weights) -> None:
        """Announce weights that may be there or not."""
        durable = Ledger(step=0, settled=())
        self.bus.publish(
            POLICY, PolicyVersion(run=self.id, weights=weights, total_steps=4, durable=durable, created_ns=1)
        )

    # The dispatcher ------------------------------------------------------------------------------

    def training_prompt(
        self, number: int, step: int = 1, *, size: int = 3, max_tokens: int = 6, source: str = "sums"
    ) -> Prompt:
        """A prompt with an image."""
        group = Group(
            run=self.id, split=Split.TRAIN, number=number, source=source, sample_id=f"row-{number}", size=size
        )
        return self._prompt(group, Progress(step=step, total_steps=4), temperature=1.0, max_tokens=max_tokens)

    def evaluation_prompt(self, number: int, weights: Weights, *, max_tokens: int = 6) -> Prompt:
        """A prompt that pins weights."""
        group = Group(
            run=self.id,
            split=Split.EVAL,
            number=number,
            source="sums",
            sample_id=f"row-{number}",
            size=1,
            eval_step=weights.version,
        )
        progress = Progress(step=weights.version, total_steps=4)
        prompt = self._prompt(group, progress, temperature=0.0, max_tokens=max_tokens)
        return replace(prompt, pinned_weights=weights)

    def _prompt(self, group: Group, progress: Progress, *, temperature: float, max_tokens: int) -> Prompt:
        return Prompt(
            group=group,
            messages=(Message(role="user", content=f"<image>What is {group.number}?"),),
            images=(self.blobs.put_image(self._make_image(16, 16, group.number), "image/png"),),
            reward=REWARD,
            sampling=Sampling(temperature=temperature, top_p=1.0, max_tokens=max_tokens, seed=derive_seed(7, group.id)),
            progress=progress,
            created_ns=time.time_ns(),
        )

    def ask(self, *prompts: Prompt) -> None:
        """Publish prompts."""
        for prompt in prompts:
            self.bus.publish(PROMPTS, prompt)

    # What comes of it ----------------------------------------------------------------------------

    def rollouts(self, count: int, seconds: float = WAIT_SECONDS) -> list[Rollout]:
        """The first ``count`` rollouts or more, once they are there, by id."""
        deadline = time.monotonic() + seconds
        while len(self._rollouts) < count:
            assert time.monotonic() < deadline, f"{len(self._rollouts)} rollouts of {count}"
            self._rollouts += [record.event for record in self._reader.poll(0.05)]
        return sorted(self._rollouts, key=lambda rollout: rollout.id)

    def in_order(self) -> list[Rollout]:
        """All rollouts that are there, as they came."""
        self._rollouts += [record.event for record in self._reader.read_to_end()]
        return list(self._rollouts)

    @contextmanager
    def producer(
        self,
        engine: Engine,
        *,
        instance: str = "host-1",
        environments: Mapping[str, Environment] | None = None,
        bus: Bus | None = None,
        **rollout: object,
    ) -> Iterator[RunningProducer]:
        """A producer, with some keys of ``[rollout]`` changed; it is stopped at the end, and must not have failed."""
        producer = self.start(engine, instance=instance, environments=environments, bus=bus, **rollout)
        try:
            yield producer
        finally:
            producer.stop()
        assert producer.error is None, repr(producer.error)

    def start(
        self,
        engine: Engine,
        *,
        instance: str = "host-1",
        environments: Mapping[str, Environment] | None = None,
        bus: Bus | None = None,
        **rollout: object,
    ) -> RunningProducer:
        """A producer that the test ends."""
        self._status_file.unlink(missing_ok=True)
        folder = self.settings.run.folder
        reporter = PartReporter(folder, self.id, Part.PRODUCER, min_interval_seconds=0.0, instance=instance)
        reporter.connect(lambda status: self.bus.publish(PARTS, status))
        section = RolloutSection.model_validate(self.settings.rollout.model_dump() | rollout)
        producer = Producer(section, bus or self.bus, self.blobs, self.encoder, engine, reporter, environments)
        return RunningProducer(producer, instance)

    def wait_for(self, waiting_for: str) -> None:
        """Wait until the producer says that it waits for this."""
        self.wait_until(lambda: self.status().get("waiting_for") == waiting_for, waiting_for)

    def wait_until(self, condition: Callable[[], bool], what: str = "it", seconds: float = WAIT_SECONDS) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen; the status is {self.status()}"
            time.sleep(0.01)

    def measure(self, name: str) -> float:
        """What the producer measures; -1 before it does."""
        return float(self.status().get("measures", {}).get(name, -1))

    def status(self) -> dict[str, Any]:
        """What the probe reads; empty while there is nothing."""
        try:
            content: dict[str, Any] = json.loads(self._status_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return content

    def newest_statuses(self) -> dict[str, PartStatus]:
        """The newest status of each producer, by instance."""
        reader = self.bus.reader([PARTS])
        return {record.event.instance: record.event for record in reader.read_to_end()}

    @property
    def _status_file(self) -> Path:
        return self.settings.run.folder.status / "producer.json"
