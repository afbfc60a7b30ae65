import hashlib
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tristream.config.run_file import RunFile
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.registry import make_engine
from tristream.producer.engines.transformers import TransformersEngine
from tristream.producer.producer import Producer
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import TryAgainError
from tristream.runtime.status import PartReporter
from tristream.runtime.store import BlobStore, StoreUnavailableError
from tristream.wire.arrays import Tokens
from tristream.wire.events import (
    FinishReason,
    Group,
    Ledger,
    Message,
    Part,
    PartState,
    PartStatus,
    PolicyVersion,
    Progress,
    Prompt,
    RewardSpec,
    RewardTerm,
    Rollout,
    Sampling,
    SegmentKind,
    Split,
    VersionSpan,
    Weights,
)
from tristream.wire.seeds import derive_seed
from tristream.wire.topics import PARTS, POLICY, PROMPTS, ROLLOUTS

MakeImage = Callable[[int, int, int], bytes]
REWARD = RewardSpec(
    terms=(RewardTerm(id="math", verifier="math", version="1", weights={"accuracy": 1.0}),), ground_truth="4"
)


class Run:
    """One run without the other parts: the test plays the dispatcher and the learner."""

    def __init__(self, settings: RunFile, make_image: MakeImage) -> None:
        self.settings = settings
        self.bus = MemoryBus("demo")
        self.blobs = BlobStore(settings.store.address(settings.run.folder))
        self._make_image = make_image
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
        durable = Ledger(step=0, settled=())
        self.bus.publish(
            POLICY, PolicyVersion(run="demo", weights=weights, total_steps=4, durable=durable, created_ns=1)
        )

    def training_prompt(self, number: int, step: int = 1) -> Prompt:
        group = Group(run="demo", split=Split.TRAIN, number=number, source="sums", sample_id=f"row-{number}", size=3)
        return self._prompt(group, Progress(step=step, total_steps=4), temperature=1.0)

    def evaluation_prompt(self, number: int, weights: Weights) -> Prompt:
        group = Group(
            run="demo",
            split=Split.EVAL,
            number=number,
            source="sums",
            sample_id=f"row-{number}",
            size=1,
            eval_step=weights.version,
        )
        prompt = self._prompt(group, Progress(step=weights.version, total_steps=4), temperature=0.0)
        return replace(prompt, pinned_weights=weights)

    def _prompt(self, group: Group, progress: Progress, *, temperature: float) -> Prompt:
        return Prompt(
            group=group,
            messages=(Message(role="user", content=f"<image>What is {group.number}?"),),
            images=(self.blobs.put_image(self._make_image(16, 16, group.number), "image/png"),),
            reward=REWARD,
            sampling=Sampling(temperature=temperature, top_p=1.0, max_tokens=6, seed=derive_seed(7, group.id)),
            progress=progress,
            created_ns=time.time_ns(),
        )

    def rollouts(self, count: int) -> list[Rollout]:
        """The first ``count`` rollouts, once they are there."""
        deadline = time.monotonic() + 20
        while len(self._rollouts) < count:
            assert time.monotonic() < deadline, f"{len(self._rollouts)} rollouts of {count}"
            self._rollouts += [record.event for record in self._reader.poll(0.05)]
        return sorted(self._rollouts, key=lambda rollout: rollout.id)

    @contextmanager
    def producer(self, instance: str = "host-1") -> Iterator[None]:
        encoder = PromptEncoder(self.settings.model.path)
        engine = make_engine(self.settings.rollout.engine, self.settings.model, encoder)
        self._status_file.unlink(missing_ok=True)
        folder = self.settings.run.folder
        reporter = PartReporter(folder, "demo", Part.PRODUCER, min_interval_seconds=0.0, instance=instance)
        reporter.connect(lambda status: self.bus.publish(PARTS, status))
        producer = Producer(self.settings.rollout, self.bus, self.blobs, encoder, engine, reporter)
        stop = threading.Event()
        thread = threading.Thread(target=producer.run, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()

    def wait_for(self, waiting_for: str) -> None:
        deadline = time.monotonic() + 20
        while self._waiting_for() != waiting_for:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def _status_file(self) -> Path:
        return self.settings.run.folder.status / "producer.json"

    def _waiting_for(self) -> str | None:
        if not self._status_file.exists():
            return None
        return str(json.loads(self._status_file.read_text(encoding="utf-8"))["waiting_for"])

    def newest_statuses(self) -> dict[str, PartStatus]:
        reader = self.bus.reader([PARTS])
        return {record.event.instance: record.event for record in reader.read_to_end()}


@pytest.fixture
def run(make_settings: Callable[..., RunFile], make_image: MakeImage) -> Run:
    return Run(make_settings(), make_image)


def sampled_tokens(rollout: Rollout) -> Tokens:
    return rollout.segments[-1].tokens


def test_a_prompt_is_answered_with_its_group(run: Run, tmp_path: Path) -> None:
    run.publish_weights(0, tmp_path)
    prompt = run.training_prompt(5)
    run.bus.publish(PROMPTS, prompt)
    with run.producer():
        rollouts = run.rollouts(3)
    assert [rollout.id for rollout in rollouts] == ["demo/5/0", "demo/5/1", "demo/5/2"]
    assert len({sampled_tokens(rollout) for rollout in rollouts}) > 1
    assert len({rollout.segments[0] for rollout in rollouts}) == 1
    for rollout in rollouts:
        assert rollout.group == prompt.group
        assert rollout.reward == prompt.reward
        assert rollout.images == prompt.images
        question, answer = rollout.segments
        assert (question.kind, answer.kind) == (SegmentKind.GIVEN, SegmentKind.SAMPLED)
        assert question.images == prompt.images
        assert answer.version_spans == (VersionSpan(version=0, start=0, end=len(answer.tokens)),)
        assert len(answer.logprobs) == len(answer.tokens) > 0
        assert all(logprob < 0 for logprob in answer.logprobs.to_list())
        assert rollout.prompt_text.count("<|image_pad|>") == 1
        assert rollout.producer == "host-1"
        assert rollout.generate_seconds > 0
        assert rollout.temperature == 1.0


def test_the_newest_weights_are_used_and_evaluation_uses_its_own(run: Run, tmp_path: Path) -> None:
    pinned = run.publish_weights(0, tmp_path)
    run.publish_weights(1, tmp_path)
    run.bus.publish(PROMPTS, run.training_prompt(0))
    run.bus.publish(PROMPTS, run.evaluation_prompt(2, pinned))
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


def test_a_prompt_answered_again_is_answered_alike(run: Run, tmp_path: Path) -> None:
    run.publish_weights(0, tmp_path)
    run.bus.publish(PROMPTS, run.training_prompt(3))
    with run.producer():
        first = run.rollouts(3)
    for number in (2, 3, 4):
        run.bus.publish(PROMPTS, run.training_prompt(number))
    with run.producer():
        again = run.rollouts(12)
    answers = [(rollout.id, sampled_tokens(rollout)) for rollout in again]
    assert len(set(answers)) == 9
    assert {(rollout.id, sampled_tokens(rollout)) for rollout in first} <= set(answers)


def test_prompts_are_committed_only_when_they_are_answered(run: Run, tmp_path: Path) -> None:
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


def make_bomb() -> bytes:
    """A picture of 20,000 x 20,000 pixels in 48 KB."""
    rows = zlib.compress(bytes(2501 * 20_000), 9)
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def poison(run: Run) -> dict[int, tuple[Prompt, str]]:
    """Prompts that cannot be answered, by number, each with a word of the reason."""
    usual = run.training_prompt(1)
    stored = BlobStore(run.blobs.uri, inline_limit_bytes=0).put_image(usual.images[0].data, "image/png")
    (Path(stored.uri).parent / "outside").write_bytes(usual.images[0].data)

    def picture(data: bytes) -> Prompt:
        return replace(usual, images=(run.blobs.put_image(data, "image/png"),))

    def text(content: str) -> Prompt:
        return replace(usual, messages=(Message(role="user", content=content),))

    prompts = [
        (picture(make_bomb()), "too large"),
        (picture(usual.images[0].data[:60]), "cut off"),
        (picture(b"no picture"), "no PNG"),
        (replace(usual, images=()), "1 image placeholders and 0 images"),
        (text("no marker"), "0 image placeholders and 1 images"),
        (text("<image><|image_pad|>"), "2 image placeholders and 1 images"),
        (replace(usual, images=(replace(stored, uri=f"{stored.uri}0"),)), "missing"),
        (replace(usual, images=(replace(stored, uri="/etc/hostname"),)), "/etc/hostname"),
        (replace(usual, images=(replace(stored, sha256="0" * 64),)), "checksum"),
        (text("<image>" + "long " * 400), "longer than the model"),
        (replace(usual, sampling=replace(usual.sampling, max_tokens=10_000)), "longer than the model"),
    ]
    return {
        number: (replace(prompt, group=replace(prompt.group, number=number), digest=f"{number:x}"), reason)
        for number, (prompt, reason) in enumerate(prompts, start=1)
    }


def test_a_prompt_that_cannot_be_answered_fails_in_words_and_the_others_are_answered(run: Run, tmp_path: Path) -> None:
    run.publish_weights(0, tmp_path)
    prompts = poison(run)
    for prompt, _reason in prompts.values():
        run.bus.publish(PROMPTS, prompt)
    for number in (0, len(prompts) + 1):
        run.bus.publish(PROMPTS, replace(run.training_prompt(number), digest="abc"))
    with run.producer():
        rollouts = run.rollouts(3 * len(prompts) + 6)
    assert len({rollout.id for rollout in rollouts}) == len(rollouts)
    for rollout in rollouts:
        if rollout.group.number not in prompts:
            assert (rollout.finish_reason is not FinishReason.ERROR, rollout.oldest_version) == (True, 0)
            assert (rollout.error, rollout.prompt_digest) == ("", "abc")
            continue
        _prompt, reason = prompts[rollout.group.number]
        assert (rollout.finish_reason, rollout.segments, rollout.oldest_version) == (FinishReason.ERROR, (), -1)
        assert reason in rollout.error
        assert rollout.prompt_digest == f"{rollout.group.number:x}"
    assert run.newest_statuses()["host-1"].measures["num_failed_prompts"] == len(prompts)


def test_an_answer_that_no_record_can_hold_fails_its_rollout_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.publish_weights(0, tmp_path)
    for number in range(2):
        run.bus.publish(PROMPTS, run.training_prompt(number))
    decode, texts = PromptEncoder.decode, iter(["x" * 9 * 2**20, "a lone \ud800 surrogate"])
    monkeypatch.setattr(PromptEncoder, "decode", lambda encoder, tokens: next(texts, None) or decode(encoder, tokens))
    with run.producer():
        rollouts = run.rollouts(6)
    reasons = sorted(rollout.error for rollout in rollouts)
    assert reasons[:4] == [""] * 4 or reasons[:5] == [""] * 5
    assert "bytes" in reasons[-1]


def test_weights_that_give_no_numbers_fail_the_rollouts_and_the_producer_goes_on(run: Run, tmp_path: Path) -> None:
    tensors = load_file(run.settings.model.path / "model.safetensors")
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}, tmp_path / "nan")
    digest = hashlib.sha256((tmp_path / "nan").read_bytes()).hexdigest()
    run.announce(Weights(version=3, uri=run.blobs.write_file("weights/nan", tmp_path / "nan"), sha256=digest))
    run.bus.publish(PROMPTS, run.training_prompt(0))
    with run.producer():
        failed = run.rollouts(3)
        run.publish_weights(4, tmp_path)
        run.bus.publish(PROMPTS, run.training_prompt(1, step=5))
        answered = run.rollouts(6)[3:]
    assert {rollout.error for rollout in failed} == {
        "the engine gave log-probabilities that are no numbers, with weights of version 3"
    }
    assert {rollout.error for rollout in answered} == {""}


def test_a_group_at_which_the_engine_fails_is_given_up_and_the_others_are_answered(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.publish_weights(0, tmp_path)
    prefill = TransformersEngine._prefill

    def fail_at_one(engine: TransformersEngine, groups: Any) -> Any:
        if any(request.id.startswith("demo/6/") for _, requests in groups for request in requests):
            raise RuntimeError("out of\nmemory")
        return prefill(engine, groups)

    monkeypatch.setattr(TransformersEngine, "_prefill", fail_at_one)
    for number in range(4, 8):
        run.bus.publish(PROMPTS, run.training_prompt(number))
    with run.producer():
        rollouts = run.rollouts(12)
    assert {rollout.error for rollout in rollouts if rollout.group.number == 6} == {"the engine failed: out of memory"}
    assert {rollout.error for rollout in rollouts if rollout.group.number != 6} == {""}
    assert len({rollout.id for rollout in rollouts}) == 12


def test_an_engine_that_fails_at_everything_ends_the_producer_to_be_started_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_engine: TransformersEngine) -> Any:
        raise RuntimeError("no device")

    monkeypatch.setattr(TransformersEngine, "step", fail)
    run.publish_weights(0, tmp_path)
    for number in range(20):
        run.bus.publish(PROMPTS, run.training_prompt(number))
    encoder = PromptEncoder(run.settings.model.path)
    engine = make_engine(run.settings.rollout.engine, run.settings.model, encoder)
    reporter = PartReporter(run.settings.run.folder, "demo", Part.PRODUCER)
    with pytest.raises(TryAgainError, match="failed at each of the last 20 prompts: no device"):
        Producer(run.settings.rollout, run.bus, run.blobs, encoder, engine, reporter).run(threading.Event())
    assert {rollout.error for rollout in run.rollouts(60)} == {"the engine failed: no device"}


def test_a_store_that_is_away_is_waited_for(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = run.publish_weights(0, tmp_path)
    run.bus.publish(PROMPTS, run.training_prompt(0))
    is_away = threading.Event()
    is_away.set()
    fetch = BlobStore.fetch

    def fetch_if_there(store: BlobStore, uri: str, sha256: str) -> Path:
        if is_away.is_set():
            raise StoreUnavailableError("the store answers 503")
        return fetch(store, uri, sha256)

    monkeypatch.setattr(BlobStore, "fetch", fetch_if_there)
    with run.producer():
        run.wait_for(f"the weights of version {weights.version}: the store answers 503")
        is_away.clear()
        assert {rollout.error for rollout in run.rollouts(3)} == {""}


def test_evaluation_of_weights_that_were_replaced_uses_their_successors(run: Run, tmp_path: Path) -> None:
    weights = run.publish_weights(0, tmp_path)
    run.bus.publish(PROMPTS, run.evaluation_prompt(0, replace(weights, sha256="0" * 64)))
    with run.producer():
        assert run.rollouts(1)[0].oldest_version == 0


def test_evaluation_of_weights_that_are_gone_fails_and_the_rest_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tristream.producer.weights_loading.PINNED_ATTEMPTS", 2)
    weights = run.publish_weights(1, tmp_path)
    gone = replace(weights, version=0, uri=f"{weights.uri}.gone")
    run.bus.publish(PROMPTS, run.evaluation_prompt(0, gone))
    run.bus.publish(PROMPTS, run.training_prompt(0))
    with run.producer():
        reasons = {rollout.id: rollout.finish_reason for rollout in run.rollouts(4)}
    assert reasons.pop("demo/eval-0/0/0") is FinishReason.ERROR
    assert FinishReason.ERROR not in reasons.values()


def test_two_producers_on_one_machine_show_as_two(run: Run, tmp_path: Path) -> None:
    run.publish_weights(4, tmp_path)
    with run.producer("host-1"), run.producer("host-2"):
        for number in range(6):
            run.bus.publish(PROMPTS, run.training_prompt(number, step=5))
        run.rollouts(18)
    published = [record.event for record in run.bus.reader([ROLLOUTS]).read_to_end()]
    statuses = run.newest_statuses()
    assert set(statuses) == {"host-1", "host-2"}
    for instance, status in statuses.items():
        own = [rollout for rollout in published if rollout.producer == instance]
        assert (status.part, status.state) == (Part.PRODUCER, PartState.DONE)
        assert status.measures["num_rollouts"] == len(own)
        assert status.measures["num_tokens"] == sum(rollout.num_sampled_tokens for rollout in own)
        assert status.measures["num_failed_prompts"] == 0
