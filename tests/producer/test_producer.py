import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tristream.config.run_file import RunFile
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.decoding_policy import PolicyModel
from tristream.producer.engines.transformers import TransformersEngine
from tristream.producer.producer import Producer
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.status import StatusFile, read_status
from tristream.runtime.store import BlobStore
from tristream.wire.events import FinishReason, PolicyVersion, Progress, Prompt, Rollout, VersionSpan, Weights
from tristream.wire.topics import POLICY, PROMPTS, ROLLOUTS

MakeSettings = Callable[..., RunFile]


class Run:
    """One run without the other parts: the test plays the dispatcher and the learner."""

    def __init__(self, settings: RunFile) -> None:
        self.settings = settings
        self.bus = MemoryBus("demo")
        self.blobs = BlobStore(settings.store_uri)
        self.maker = PromptMaker(settings, self.blobs)
        self._rollouts: list[Rollout] = []
        self._reader = self.bus.reader([ROLLOUTS])

    def publish_weights(self, version: int, folder: Path) -> Weights:
        """Announce a version whose weights differ from those of other versions."""
        generator = torch.Generator().manual_seed(version)
        tensors = load_file(self.settings.model.path / "model.safetensors")
        shaken = {
            name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()
        }
        save_file(shaken, folder / f"{version}.safetensors")
        digest = hashlib.sha256((folder / f"{version}.safetensors").read_bytes()).hexdigest()
        uri = self.blobs.write_file(f"weights/{version}/model.safetensors", folder / f"{version}.safetensors")
        weights = Weights(version=version, uri=uri, sha256=digest)
        self.announce(weights)
        return weights

    def announce(self, weights: Weights) -> None:
        self.bus.publish(
            POLICY, PolicyVersion(run="demo", weights=weights, total_steps=4, settled=(), dropped=(), created_ns=1)
        )

    def training_prompt(self, number: int, step: int = 1) -> Prompt:
        return self.maker.training_prompt(number, Progress(step=step, total_steps=4))

    def rollouts(self, count: int) -> list[Rollout]:
        """The first ``count`` rollouts, once they are there."""
        deadline = time.monotonic() + 20
        while len(self._rollouts) < count:
            assert time.monotonic() < deadline, f"{len(self._rollouts)} rollouts of {count}"
            self._rollouts += [record.event for record in self._reader.poll(0.05)]
        return sorted(self._rollouts, key=lambda rollout: rollout.id)

    @contextmanager
    def producer(self) -> Iterator[None]:
        encoder = PromptEncoder(self.settings.model.path)
        model = PolicyModel(self.settings.model.path, encoder.config)
        engine = TransformersEngine(encoder, model, max_batch_size=self.settings.rollout.max_batch_size)
        (self.settings.status_folder / "producer.json").unlink(missing_ok=True)
        status = StatusFile(self.settings.status_folder, "producer", min_interval_seconds=0.0)
        producer = Producer(self.settings.rollout, self.bus, self.blobs, encoder, engine, status)
        stop = threading.Event()
        thread = threading.Thread(target=producer.run, args=(stop, "test-producer"), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()

    def wait_for(self, waiting_for: str) -> None:
        deadline = time.monotonic() + 20
        while (read_status(self.settings.status_folder, "producer") or {}).get("waiting_for") != waiting_for:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_prompt_is_answered_with_its_group(make_settings: MakeSettings, tmp_path: Path) -> None:
    run = Run(make_settings())
    run.publish_weights(0, tmp_path)
    prompt = run.training_prompt(5)
    run.bus.publish(PROMPTS, prompt)
    with run.producer():
        rollouts = run.rollouts(3)
    assert [rollout.id for rollout in rollouts] == ["demo/5/0", "demo/5/1", "demo/5/2"]
    assert len({rollout.completion_tokens for rollout in rollouts}) > 1
    for rollout in rollouts:
        assert rollout.group == prompt.group
        assert rollout.reward == prompt.reward
        assert rollout.images == prompt.images
        assert rollout.version_spans == (VersionSpan(version=0, start=0, end=len(rollout.completion_tokens)),)
        assert len(rollout.logprobs) == len(rollout.completion_tokens) > 0
        assert all(logprob < 0 for logprob in rollout.logprobs)
        assert rollout.prompt_text.count("<|image_pad|>") == 1
        assert rollout.producer == "test-producer"
        assert rollout.generate_seconds > 0
        assert rollout.temperature == 1.0


def test_the_newest_weights_are_used_and_evaluation_uses_its_own(make_settings: MakeSettings, tmp_path: Path) -> None:
    run = Run(make_settings())
    pinned = run.publish_weights(0, tmp_path)
    run.publish_weights(1, tmp_path)
    run.bus.publish(PROMPTS, run.training_prompt(0))
    run.bus.publish(PROMPTS, run.maker.evaluation_prompt(2, pinned))
    with run.producer():
        rollouts = run.rollouts(4)
        assert {rollout.id: rollout.oldest_version for rollout in rollouts} == {
            "demo/0/0": 1,
            "demo/0/1": 1,
            "demo/0/2": 1,
            "demo/eval-0/2/0": 0,
        }
        run.publish_weights(2, tmp_path)
        run.bus.publish(PROMPTS, run.training_prompt(1, step=3))
        assert {rollout.oldest_version for rollout in run.rollouts(7) if rollout.group.number == 1} == {2}


def test_a_prompt_answered_again_is_answered_alike(make_settings: MakeSettings, tmp_path: Path) -> None:
    run = Run(make_settings())
    run.publish_weights(0, tmp_path)
    run.bus.publish(PROMPTS, run.training_prompt(3))
    with run.producer():
        first = run.rollouts(3)
    for number in (2, 3, 4):
        run.bus.publish(PROMPTS, run.training_prompt(number))
    with run.producer():
        again = run.rollouts(12)
    answers = [(rollout.id, rollout.completion_tokens) for rollout in again]
    assert len(set(answers)) == 9
    assert {(rollout.id, rollout.completion_tokens) for rollout in first} <= set(answers)


def test_prompts_are_committed_only_when_they_are_answered(make_settings: MakeSettings, tmp_path: Path) -> None:
    run = Run(make_settings())
    run.bus.publish(PROMPTS, run.training_prompt(0))
    with run.producer():
        run.wait_for("a policy version from the learner")
    run.publish_weights(0, tmp_path)
    with run.producer():
        run.rollouts(3)
        run.wait_for("prompts from the dispatcher")
    with run.producer():
        run.wait_for("prompts from the dispatcher")
        time.sleep(0.3)
    assert len(run.rollouts(3)) == 3


def test_a_prompt_that_cannot_be_answered_settles_its_group_with_errors(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    run = Run(make_settings())
    run.publish_weights(0, tmp_path)
    good, bad = run.training_prompt(0), run.training_prompt(1)
    damaged = run.blobs.put_image(bad.images[0].data[:60], "image/png")
    run.bus.publish(PROMPTS, replace(bad, images=(damaged,)))
    run.bus.publish(PROMPTS, replace(run.training_prompt(2), sampling=replace(bad.sampling, max_tokens=10_000)))
    run.bus.publish(PROMPTS, good)
    with run.producer():
        rollouts = run.rollouts(9)
    failed = {rollout.id for rollout in rollouts if rollout.finish_reason is FinishReason.ERROR}
    assert failed == {f"demo/{number}/{index}" for number in (1, 2) for index in range(3)}
    assert all(rollout.oldest_version == (-1 if rollout.id in failed else 0) for rollout in rollouts)


def test_evaluation_of_weights_that_were_replaced_uses_their_successors(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    run = Run(make_settings())
    weights = run.publish_weights(0, tmp_path)
    run.bus.publish(PROMPTS, run.maker.evaluation_prompt(0, replace(weights, sha256="0" * 64)))
    with run.producer():
        assert run.rollouts(1)[0].oldest_version == 0


def test_evaluation_of_weights_that_are_gone_fails_and_the_rest_goes_on(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tristream.producer.producer.PINNED_ATTEMPTS", 2)
    run = Run(make_settings())
    weights = run.publish_weights(1, tmp_path)
    gone = replace(weights, version=0, uri=f"{weights.uri}.gone")
    run.bus.publish(PROMPTS, run.maker.evaluation_prompt(0, gone))
    run.bus.publish(PROMPTS, run.training_prompt(0))
    with run.producer():
        reasons = {rollout.id: rollout.finish_reason for rollout in run.rollouts(4)}
    assert reasons.pop("demo/eval-0/0/0") is FinishReason.ERROR
    assert FinishReason.ERROR not in reasons.values()
