"""The producer with a real engine on a tiny vision-language model."""

import hashlib
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from producer_run import MakeImage, ProducerRun
from tristream.config.run_file import RunFile
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import Engine
from tristream.producer.engines.registry import make_engine
from tristream.runtime.store import BlobStore, StoreUnavailableError
from tristream.wire.arrays import Tokens
from tristream.wire.events import (
    FinishReason,
    Message,
    Prompt,
    Rollout,
    SegmentKind,
    VersionSpan,
    Weights,
)
from tristream.wire.topics import PROMPTS


@pytest.fixture
def run(make_settings: Callable[..., RunFile], make_image: MakeImage) -> ProducerRun:
    return ProducerRun(make_settings(), make_image)


def make(run: ProducerRun) -> Engine:
    return make_engine(run.settings.rollout.engine, run.settings.model, run.encoder)


def sampled_tokens(rollout: Rollout) -> Tokens:
    return rollout.segments[-1].tokens


def test_a_prompt_is_answered_with_its_group(run: ProducerRun, tmp_path: Path) -> None:
    run.publish_weights(0, tmp_path)
    prompt = run.training_prompt(5)
    run.bus.publish(PROMPTS, prompt)
    with run.producer(make(run)):
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


def test_the_newest_weights_are_used_and_evaluation_uses_its_own(run: ProducerRun, tmp_path: Path) -> None:
    pinned = run.publish_weights(0, tmp_path)
    run.publish_weights(1, tmp_path)
    run.bus.publish(PROMPTS, run.training_prompt(0))
    run.bus.publish(PROMPTS, run.evaluation_prompt(2, pinned))
    with run.producer(make(run), max_staleness=0):
        rollouts = run.rollouts(4)
        assert {rollout.id: rollout.oldest_version for rollout in rollouts} == {
            "demo/0/0": 1,
            "demo/0/1": 1,
            "demo/0/2": 1,
            "demo/eval-0/2/0": 0,
        }
        run.publish_weights(2, tmp_path)
        run.wait_until(lambda: run.measure("version") == 2, "version 2")
        run.bus.publish(PROMPTS, run.training_prompt(1, step=3))
        assert {rollout.oldest_version for rollout in run.rollouts(7) if rollout.group.number == 1} == {2}


def test_a_prompt_answered_again_is_answered_alike(run: ProducerRun, tmp_path: Path) -> None:
    run.publish_weights(0, tmp_path)
    run.bus.publish(PROMPTS, run.training_prompt(3))
    with run.producer(make(run)):
        first = run.rollouts(3)
    for number in (2, 3, 4):
        run.bus.publish(PROMPTS, run.training_prompt(number))
    with run.producer(make(run)):
        again = run.rollouts(12)
    answers = [(rollout.id, sampled_tokens(rollout)) for rollout in again]
    assert len(set(answers)) == 9
    assert {(rollout.id, sampled_tokens(rollout)) for rollout in first} <= set(answers)


def test_prompts_are_committed_only_when_they_are_answered(run: ProducerRun, tmp_path: Path) -> None:
    run.bus.publish(PROMPTS, run.training_prompt(0))
    with run.producer(make(run)):
        run.wait_for("a policy version from the learner")
    run.publish_weights(0, tmp_path)
    with run.producer(make(run)):
        run.rollouts(3)
        run.wait_for("prompts from the dispatcher")
    with run.producer(make(run)):
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


def poison(run: ProducerRun) -> dict[int, tuple[Prompt, str]]:
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


def test_a_prompt_that_cannot_be_answered_fails_in_words_and_the_others_are_answered(
    run: ProducerRun, tmp_path: Path
) -> None:
    run.publish_weights(0, tmp_path)
    prompts = poison(run)
    for prompt, _reason in prompts.values():
        run.bus.publish(PROMPTS, prompt)
    for number in (0, len(prompts) + 1):
        run.bus.publish(PROMPTS, replace(run.training_prompt(number), digest="abc"))
    with run.producer(make(run)):
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
    run: ProducerRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.publish_weights(0, tmp_path)
    for number in range(2):
        run.bus.publish(PROMPTS, run.training_prompt(number))
    decode, texts = PromptEncoder.decode, iter(["x" * 9 * 2**20, "a lone \ud800 surrogate"])
    monkeypatch.setattr(PromptEncoder, "decode", lambda encoder, tokens: next(texts, None) or decode(encoder, tokens))
    with run.producer(make(run)):
        rollouts = run.rollouts(6)
    reasons = sorted(rollout.error for rollout in rollouts)
    assert reasons[:4] == [""] * 4 or reasons[:5] == [""] * 5
    assert "bytes" in reasons[-1]


def test_weights_that_give_no_numbers_fail_the_rollouts_and_the_producer_goes_on(
    run: ProducerRun, tmp_path: Path
) -> None:
    tensors = load_file(run.settings.model.path / "model.safetensors")
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}, tmp_path / "nan")
    digest = hashlib.sha256((tmp_path / "nan").read_bytes()).hexdigest()
    run.announce(Weights(version=3, uri=run.blobs.write_file("weights/nan", tmp_path / "nan"), sha256=digest))
    run.bus.publish(PROMPTS, run.training_prompt(0))
    with run.producer(make(run)):
        failed = run.rollouts(3)
        run.publish_weights(4, tmp_path)
        run.bus.publish(PROMPTS, run.training_prompt(1, step=5))
        answered = run.rollouts(6)[3:]
    assert {rollout.error for rollout in failed} == {
        "the engine gave log-probabilities that are no numbers, with weights of version 3"
    }
    assert {rollout.error for rollout in answered} == {""}


def test_a_store_that_is_away_is_waited_for(run: ProducerRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with run.producer(make(run)):
        run.wait_for(f"the weights of version {weights.version}: the store answers 503")
        is_away.clear()
        assert {rollout.error for rollout in run.rollouts(3)} == {""}


def test_evaluation_of_weights_that_were_replaced_uses_their_successors(run: ProducerRun, tmp_path: Path) -> None:
    weights = run.publish_weights(0, tmp_path)
    run.bus.publish(PROMPTS, run.evaluation_prompt(0, replace(weights, sha256="0" * 64)))
    with run.producer(make(run)):
        assert run.rollouts(1)[0].oldest_version == 0


def test_evaluation_of_weights_that_are_gone_fails_and_the_rest_goes_on(
    run: ProducerRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tristream.producer.weights_keeping.PINNED_ATTEMPTS", 2)
    weights = run.publish_weights(1, tmp_path)
    gone = replace(weights, version=0, uri=f"{weights.uri}.gone")
    run.bus.publish(PROMPTS, run.evaluation_prompt(0, gone))
    run.bus.publish(PROMPTS, run.training_prompt(0))
    with run.producer(make(run)):
        reasons = {rollout.id: rollout.finish_reason for rollout in run.rollouts(4)}
    assert reasons.pop("demo/eval-0/0/0") is FinishReason.ERROR
    assert FinishReason.ERROR not in reasons.values()
