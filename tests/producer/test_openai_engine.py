"""The engine on servers, against real HTTP servers of the test that do badly what can be done badly.

Their model is a hash of all tokens before, so that whatever happens on the way, an answer must be the same.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import hostile_server
from hostile_server import whole_answer
from tristream.config.engines import OpenaiEngineSection
from tristream.config.model import ModelSection
from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.openai import engine as openai_engine
from tristream.producer.engines.openai.engine import OpenaiEngine, make_openai_engine
from tristream.producer.engines.openai.weights import WeightsFolders
from tristream.producer.engines.protocol import Completion, EngineFailedError, GenerationRequest, WeightsFile
from tristream.runtime.errors import UserError
from tristream.wire.arrays import Tokens
from tristream.wire.events import FinishReason, Message, Sampling

NUM_TOKENS = 8


class HostileServer:
    """One of the servers, as a process."""

    def __init__(self, **settings: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = settings
        self.start()

    def start(self) -> None:
        """Start it, or start it again."""
        command = [sys.executable, str(Path(hostile_server.__file__)), str(self.port), json.dumps(self.settings)]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                self.journal()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("the server of the test did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def tell(self, **faults: Any) -> None:
        """Say which faults come next, or always, and no others."""
        self._call("/faults", json.dumps(faults).encode())

    def journal(self) -> dict[str, Any]:
        return json.loads(self._call("/journal", None))  # type: ignore[no-any-return]

    def called(self) -> list[str]:
        """The calls so far, without those for tokens."""
        return [path for path, _ in self.journal()["calls"] if path.startswith(("/p", "/r", "/c", "/u"))]

    def prompts(self) -> list[list[int]]:
        """The prompts that it was asked, without those of the probe."""
        asked = [body for path, body in self.journal()["calls"] if path == "/inference/v1/generate"]
        return [prompt for prompt in asked if len(prompt) > 1]

    def _call(self, path: str, body: bytes | None) -> bytes:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.read()  # type: ignore[no-any-return]


@contextmanager
def hostile_server_process(**settings: Any) -> Iterator[HostileServer]:
    server = HostileServer(**settings)
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def encoder(text_model_path: Path) -> PromptEncoder:
    return PromptEncoder(text_model_path)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[HostileServer]:
    with hostile_server_process() as server:
        yield server


@pytest.fixture
def server(shared_server: HostileServer) -> HostileServer:
    shared_server.tell()
    return shared_server


@pytest.fixture
def start() -> Iterator[Callable[..., HostileServer]]:
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(hostile_server_process(**settings))


class Bench:
    """An engine for the servers of a test."""

    def __init__(self, model_path: Path, encoder: PromptEncoder) -> None:
        self.weights = WeightsFile(path=model_path / "model.safetensors")
        self.model = ModelSection(path=model_path)
        self.encoder = encoder

    def run(
        self, work: Callable[[OpenaiEngine], Awaitable[Any]], *servers: HostileServer, version: int = 3, **options: Any
    ) -> Any:
        """Run work with an engine that has weights."""
        chosen = {"type": "openai", "request_timeout_seconds": 5.0, "urls": [server.url for server in servers]}
        section = OpenaiEngineSection.model_validate(chosen | options)

        async def with_engine() -> Any:
            engine = make_openai_engine(section, self.model, self.encoder)
            try:
                await engine.update_weights(version, self.weights)
                return await work(engine)
            finally:
                await engine.close()

        return asyncio.run(asyncio.wait_for(with_engine(), 60))

    def complete(self, *servers: HostileServer, **options: Any) -> Completion:
        completion: Completion = self.run(lambda engine: engine.generate(ask()), *servers, **options)
        return completion


@pytest.fixture
def bench(text_model_path: Path, encoder: PromptEncoder) -> Bench:
    return Bench(text_model_path, encoder)


def ask(
    number: int = 0, *, prompt: list[int] | None = None, max_seconds: float | None = None, **sampling: Any
) -> GenerationRequest:
    chosen = {"temperature": 1.0, "top_p": 1.0, "max_tokens": NUM_TOKENS, "seed": number} | sampling
    return GenerationRequest(
        id=f"group/{number}",
        prompt_tokens=Tokens.of(prompt or [5, 6, 7, number]),
        sampling=Sampling(**chosen),
        max_seconds=max_seconds,
    )


def assert_whole(completion: Completion, *, num_tokens: int = NUM_TOKENS, version: int | None = 3) -> None:
    """Check that a completion is what the model answers, without gap or repetition."""
    tokens, logprobs = whole_answer(completion.prompt_tokens.to_list(), num_tokens)
    assert completion.tokens.to_list() == tokens
    assert completion.logprobs.to_list() == pytest.approx(logprobs)
    assert completion.finish_reason is FinishReason.LENGTH
    spans = completion.version_spans
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == num_tokens
    if version is not None:
        assert {span.version for span in spans} == {version}


FAULTS = (
    "500",
    "502",
    "503",
    "429",
    "404",
    "drop_before",
    "drop_0",
    "drop_3",
    "garbage_0",
    "garbage_4",
    "error_2",
    "abort_0",
    "abort_5",
    "wrong_lengths",
    "no_reason",
    "other_prompt",
    "too_many",
)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_tried_again_and_leaves_no_trace(fault: str, server: HostileServer, bench: Bench) -> None:
    server.tell(next=[f"ask:{fault}"] * 2)
    assert_whole(bench.complete(server))


def test_a_server_that_says_nothing_for_too_long_is_asked_again(server: HostileServer, bench: Bench) -> None:
    server.tell(next=["ask:hang_0", "ask:hang_3"])
    assert_whole(bench.complete(server, request_timeout_seconds=0.5))


def test_what_was_streamed_before_a_fault_is_not_asked_again(server: HostileServer, bench: Bench) -> None:
    before = len(server.prompts())
    server.tell(next=["ask:drop_3", "ask:garbage_2"])
    completion = bench.complete(server)
    prompt, tokens = completion.prompt_tokens.to_list(), completion.tokens.to_list()
    assert server.prompts()[before:] == [prompt, prompt + tokens[:3], prompt + tokens[:5]]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "told to fail"),
        ("drop_0", "in the middle of an answer"),
        ("garbage_0", "cannot be read"),
        ("other_prompt", "another prompt"),
        ("abort_0", "ended the request"),
    ],
)
def test_a_fault_that_stays_is_one_clear_error(fault: str, words: str, server: HostileServer, bench: Bench) -> None:
    server.tell(always=f"ask:{fault}")
    with pytest.raises(EngineFailedError, match=rf"failed {openai_engine.MOST_FAILURES} times in a row.*{words}"):
        bench.complete(server)


def test_a_request_that_the_server_refuses_is_refused_and_its_neighbours_live(
    server: HostileServer, bench: Bench
) -> None:
    async def work(engine: OpenaiEngine) -> list[Any]:
        requests = [ask(0), ask(1, prompt=[1] * 5000), ask(2)]
        return await asyncio.gather(*map(engine.generate, requests), return_exceptions=True)

    first, refused, last = bench.run(work, server)
    assert_whole(first)
    assert_whole(last)
    assert isinstance(refused, PolicyInputError)
    assert "5000 tokens" in str(refused)
    server.tell(next=["ask:400"])
    with pytest.raises(PolicyInputError, match="told to fail"):
        bench.complete(server)


def test_a_logprob_that_is_none_is_no_number(server: HostileServer, bench: Bench) -> None:
    server.tell(next=["ask:no_number"])
    completion = bench.complete(server)
    assert len(completion.logprobs) == NUM_TOKENS
    assert not completion.logprobs.is_finite


def test_an_answer_that_takes_too_long_is_cut_off_and_keeps_its_tokens(
    start: Callable[..., HostileServer], bench: Bench
) -> None:
    slow = start(token_seconds=0.05)
    completion = bench.run(lambda engine: engine.generate(ask(max_tokens=500, max_seconds=0.5)), slow)
    assert completion.finish_reason is FinishReason.LENGTH
    assert 2 <= len(completion.tokens) <= 12
    assert_whole(completion, num_tokens=len(completion.tokens))


def test_no_more_requests_are_in_flight_than_allowed(start: Callable[..., HostileServer], bench: Bench) -> None:
    slow = start(token_seconds=0.002)

    async def work(engine: OpenaiEngine) -> list[Completion]:
        return await asyncio.gather(*(engine.generate(ask(number)) for number in range(60)))

    for completion in bench.run(work, slow, max_batch_size=7):
        assert_whole(completion)
    assert slow.journal()["most_running"] == 7


def test_a_group_goes_to_one_server_and_groups_to_all(start: Callable[..., HostileServer], bench: Bench) -> None:
    servers = [start(), start()]

    async def work(engine: OpenaiEngine) -> None:
        prompts = [[group, 5, 6] for group in range(20)]
        await asyncio.gather(
            *(engine.generate(ask(member, prompt=prompt)) for prompt in prompts for member in range(4))
        )

    # So few in flight that neither server is ever clearly busier.
    bench.run(work, *servers, max_batch_size=12)
    groups = [{prompt[0] for prompt in server.prompts()} for server in servers]
    assert not groups[0] & groups[1]
    assert all(len(there) >= 4 for there in groups)
    assert [len(server.prompts()) for server in servers] == [4 * len(there) for there in groups]


def in_flight(engine: OpenaiEngine, num_requests: int, num_tokens: int) -> list[asyncio.Task[Completion]]:
    """Requests that are answered while something happens."""
    requests = [ask(number, max_tokens=num_tokens) for number in range(num_requests)]
    return [asyncio.create_task(engine.generate(request)) for request in requests]


def test_a_server_that_dies_leaves_its_requests_to_the_others(
    start: Callable[..., HostileServer], bench: Bench
) -> None:
    dying, living = start(token_seconds=0.02), start(token_seconds=0.02)

    async def work(engine: OpenaiEngine) -> tuple[list[Completion], str]:
        tasks = in_flight(engine, 16, 40)
        await asyncio.sleep(0.4)
        dying.kill()
        completions = await asyncio.gather(*tasks)
        return completions, engine.problem

    num_before = len(living.prompts())
    completions, problem = bench.run(work, dying, living)
    for completion in completions:
        assert_whole(completion, num_tokens=40)
    assert dying.url in problem
    assert living.url not in problem
    moved = [prompt for prompt in living.prompts()[num_before:] if len(prompt) > 4]
    assert moved, "no request went on from tokens of the dead server"


def test_when_all_servers_are_gone_requests_wait_for_one_to_come_back(
    start: Callable[..., HostileServer], bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    only = start(token_seconds=0.02)

    async def work(engine: OpenaiEngine) -> list[Completion]:
        tasks = in_flight(engine, 4, 30)
        await asyncio.sleep(0.2)
        only.kill()
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in tasks)
        assert only.url in engine.problem
        await asyncio.to_thread(only.start)
        return await asyncio.gather(*tasks)

    for completion in bench.run(work, only, request_timeout_seconds=20.0):
        assert_whole(completion, num_tokens=30)
    assert "no server can be asked" in caplog.text
    # It came back with the weights of its checkpoint, and was given the run's.
    assert "/collective_rpc" in only.called()
    assert only.journal()["label"] == "3"


def test_when_all_servers_stay_away_the_engine_fails(start: Callable[..., HostileServer], bench: Bench) -> None:
    only = start()

    async def work(engine: OpenaiEngine) -> None:
        only.kill()
        await engine.generate(ask())

    with pytest.raises(EngineFailedError, match=f"no server can be asked: {only.url}"):
        bench.run(work, only, request_timeout_seconds=1.0)


@pytest.mark.parametrize("scale_out", [True, False])
@pytest.mark.parametrize("can_keep", [True, False])
def test_weights_come_in_flight_and_no_token_is_lost(
    *, can_keep: bool, scale_out: bool, start: Callable[..., HostileServer], bench: Bench
) -> None:
    servers = [start(token_seconds=0.02, can_keep=can_keep, scale_out=scale_out) for _ in range(2)]

    async def work(engine: OpenaiEngine) -> list[Completion]:
        tasks = in_flight(engine, 12, 120)
        await asyncio.sleep(0.2)
        await engine.update_weights(4, bench.weights)
        assert engine.version == 4
        assert_whole(await engine.generate(ask(99)), version=4)
        return await asyncio.gather(*tasks)

    for completion in bench.run(work, *servers):
        assert_whole(completion, num_tokens=120, version=None)
        assert [span.version for span in completion.version_spans] == [3, 4]
    for server in servers:
        assert server.called()[-1] == "/resume"
        assert server.journal()["label"] == "4"


@pytest.mark.parametrize("fault", ["/collective_rpc:500", "/reset_prefix_cache:unsuccessful", "/resume:500"])
def test_a_server_that_fails_at_new_weights_is_not_left_paused_and_follows_later(
    fault: str, start: Callable[..., HostileServer], bench: Bench
) -> None:
    failing, good = start(token_seconds=0.01), start(token_seconds=0.01)

    async def work(engine: OpenaiEngine) -> list[Completion]:
        tasks = in_flight(engine, 12, 60)
        await asyncio.sleep(0.2)
        failing.tell(next=[fault] * 6)  # for long enough, on a busy machine too
        await engine.update_weights(4, bench.weights)
        assert "/resume" in failing.called()[-3:]
        assert failing.url in engine.problem
        asked = len(failing.prompts())
        await asyncio.gather(*(engine.generate(ask(number)) for number in range(100, 110)))
        assert len(failing.prompts()) == asked
        completions = await asyncio.gather(*tasks)
        while engine.problem:
            await asyncio.sleep(0.02)
        await asyncio.gather(*(engine.generate(ask(number)) for number in range(200, 220)))
        assert len(failing.prompts()) > asked
        return completions

    for completion in bench.run(work, failing, good):
        assert_whole(completion, num_tokens=60, version=None)
        assert {span.version for span in completion.version_spans} <= {3, 4}
    assert failing.called()[-1] == "/resume"


def test_nothing_is_left_beside_the_weights(start: Callable[..., HostileServer], bench: Bench, tmp_path: Path) -> None:
    kept = tmp_path / "store" / "weights" / "7" / "0-ab.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bench.weights.path.read_bytes())
    bench.weights = WeightsFile(path=kept)
    good = start()
    bench.complete(good, weights_folder="/servers/see")
    asked = [body for path, body in good.journal()["calls"] if path == "/collective_rpc"]
    paths = [body["kwargs"]["weights_path"] for body in asked if body["method"] == "reload_weights"]
    assert paths
    assert all(Path(path).is_relative_to("/servers/see") and not Path(path).exists() for path in paths)
    assert [path for path in (tmp_path / "store" / "weights").rglob("*") if path.is_file()] == [kept]
    assert [path.name for path in (tmp_path / "store" / "weights").iterdir()] == ["7"]


def test_the_link_to_the_weights_holds_under_another_path(tmp_path: Path) -> None:
    kept = tmp_path / "store" / "weights" / "7" / "0-ab.safetensors"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"weights")
    folders = WeightsFolders(tmp_path / "mounted" / "weights")
    seen = Path(folders.make(0, kept))
    (tmp_path / "store").rename(tmp_path / "mounted")
    assert (seen / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("settings", "options", "words"),
    [
        ({"dev_mode": False}, {}, "VLLM_SERVER_DEV_MODE=1"),
        ({"key": "secret"}, {}, "api_key_variable"),
        ({}, {"model": "other"}, "serves hash, not 'other'"),
    ],
)
def test_what_a_user_has_to_mend_is_said_at_once(
    settings: dict[str, Any], options: dict[str, Any], words: str, start: Callable[..., HostileServer], bench: Bench
) -> None:
    with pytest.raises(UserError, match=words):
        bench.complete(start(**settings), **options)


def test_weights_that_a_server_does_not_see_are_said_at_once(start: Callable[..., HostileServer], bench: Bench) -> None:
    blind = start()
    blind.tell(always="/collective_rpc:500")
    with pytest.raises(UserError, match=r"weights_folder.*told to fail at /collective_rpc"):
        bench.complete(blind)


def test_raw_logprobs_are_taken_where_they_are_right(start: Callable[..., HostileServer], bench: Bench) -> None:
    raw, processed = start(processed=False), start()

    def sample(server: HostileServer, **sampling: Any) -> Any:
        return bench.run(lambda engine: engine.generate(ask(**sampling)), server)

    assert_whole(sample(raw, top_p=0.9))
    assert_whole(sample(processed, temperature=0.7))
    assert_whole(sample(start(extended=True), temperature=0.7, top_p=0.9))
    with pytest.raises(PolicyInputError, match="--logprobs-mode processed_logprobs"):
        sample(raw, temperature=0.7)
    with pytest.raises(PolicyInputError, match=r"top_p = 1.*--worker-extension-cls"):
        sample(processed, top_p=0.9)


def test_the_servers_key_is_that_of_the_variable(
    start: Callable[..., HostileServer], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="SERVERS_KEY is not set"):
        bench.complete(start(key="secret"), api_key_variable="SERVERS_KEY")
    monkeypatch.setenv("SERVERS_KEY", "secret")
    assert_whole(bench.complete(start(key="secret"), api_key_variable="SERVERS_KEY"))


def test_an_address_that_is_none_is_refused(bench: Bench) -> None:
    section = OpenaiEngineSection(type="openai", urls=("localhost:8000",))
    with pytest.raises(UserError, match="'localhost:8000' is no address"):
        make_openai_engine(section, bench.model, bench.encoder)


def test_images_need_an_endpoint_that_takes_them(
    start: Callable[..., HostileServer],
    vision_model_path: Path,
    make_image: Callable[[int, int, int], bytes],
) -> None:
    encoder = PromptEncoder(vision_model_path)
    bench = Bench(vision_model_path, encoder)
    image = make_image(16, 16, 1)
    encoded = encoder.encode([Message(role="user", content="<image>How many?")], [image])
    request = GenerationRequest(id="a", prompt_tokens=encoded.tokens, images=(image,), sampling=ask().sampling)
    with pytest.raises(PolicyInputError, match="--enable-scale-out"):
        bench.run(lambda engine: engine.generate(request), start(scale_out=False))
    # A server that reads the prompt otherwise than the learner will is found out.
    with pytest.raises(PolicyInputError, match="reads the prompt with its images as"):
        bench.run(lambda engine: engine.generate(request), start())
    with pytest.raises(UserError, match="processed_logprobs"):
        bench.run(lambda engine: engine.generate(request), start(processed=False))
