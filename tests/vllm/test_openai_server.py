"""The engine on servers keeps the contract on real vLLM servers, whichever way they are asked."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from engine_contract import LONG, MAX_RUNNING, EngineContract
from engine_workbench import Workbench, until
from plain_policy import PlainPolicy, logprobs_of, write_other_weights
from tristream.config.engines import OpenaiEngineSection
from tristream.config.model import ModelSection
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.openai.engine import OpenaiEngine, make_openai_engine
from tristream.producer.engines.openai.probing import WORKER_EXTENSION
from tristream.producer.engines.protocol import Completion, Engine, GenerationRequest, WeightsFile
from tristream.wire.events import FinishReason, Message, Sampling

START_SECONDS = 240.0
TOLERANCE = 1e-3


class VllmServer:
    """``vllm serve`` as a process, for a CPU."""

    def __init__(self, model_path: Path, log: Path, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_path)]
        command += ["--port", str(port), "--enforce-eager", "--dtype", "float32", "--max-num-seqs", "16", *options]
        environment = {
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"the server did not start: {self._log.read_text(errors='replace')[-3000:]}")
        # The first request compiles for half a minute.
        body = json.dumps({"prompt": [1], "max_tokens": 2, "logprobs": 1, "seed": 1}).encode()
        request = urllib.request.Request(f"{self.url}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=START_SECONDS):
            pass

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as response:
            return json.loads(response.read())

    def kill(self) -> None:
        """Kill it with the processes that it has started."""
        try:
            os.killpg(self.process.pid, 9)
        except ProcessLookupError:
            pass
        self.process.wait()


class Servers:
    """Servers by name, each started when it is first wanted."""

    def __init__(self, text_model: Path, vision_model: Path, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._started: dict[str, VllmServer] = {}
        scale_out = "--enable-scale-out"
        processed = ("--logprobs-mode", "processed_logprobs", "--worker-extension-cls", WORKER_EXTENSION)
        self._commands = {
            # Asked by ``/inference/v1/generate``, and by ``/v1/completions``.
            "text": (text_model, *processed, scale_out, "--enable-prompt-tokens-details"),
            "plain": (text_model, *processed),
            "vision": (vision_model, *processed, scale_out),
        }

    def __getitem__(self, name: str) -> VllmServer:
        if name not in self._started:
            model_path, *options = self._commands[name]
            server = VllmServer(Path(model_path), self._folder / f"{name}.log", *map(str, options))
            self._stack.callback(server.kill)
            server.wait()
            self._started[name] = server
        return self._started[name]


@pytest.fixture(scope="module")
def servers(
    text_model_path: Path, vision_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(text_model_path, vision_model_path, tmp_path_factory.mktemp("servers"), stack)


def make_engine(model_path: Path, encoder: PromptEncoder, *servers: VllmServer, **options: Any) -> OpenaiEngine:
    chosen = {"type": "openai", "urls": [server.url for server in servers], "request_timeout_seconds": 60.0}
    section = OpenaiEngineSection.model_validate({**chosen, "max_batch_size": MAX_RUNNING, **options})
    return make_openai_engine(section, ModelSection(path=model_path), encoder)


class OpenaiContract(EngineContract):
    """What differs on servers."""

    logprob_tolerance = TOLERANCE
    num_late_tokens = 0
    in_flight_tolerance = None
    short_seconds = 0.4
    hottest = 2.0
    servers: ClassVar[Servers]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def name_servers(cls, servers: Servers) -> None:
        cls.servers = servers

    def test_an_answer_that_takes_too_long_is_cut_off_and_keeps_its_tokens(self, text: Workbench) -> None:
        cut: list[Completion] = []
        for seconds in (0.2, 0.4, 0.8, 1.6, 3.2):  # a busy machine may be late with the first token
            ask = partial(text.ask, max_tokens=LONG)
            requests = [replace(ask(f"slow-{seconds}-{n}"), max_seconds=seconds) for n in range(MAX_RUNNING)]
            cut += [each for each in text.complete(*requests) if each.finish_reason is FinishReason.LENGTH]
            if any(0 < len(completion.tokens) < LONG for completion in cut):
                break
        assert any(0 < len(completion.tokens) < LONG for completion in cut)
        for completion in cut:
            assert len(completion.tokens) == len(completion.logprobs) <= LONG
            assert sum(span.end - span.start for span in completion.version_spans) == len(completion.tokens)

    def test_tokens_of_newer_weights_are_those_of_them_alone(self, text: Workbench) -> None:
        # What was cached is computed anew, so that the newer weights read the older tokens themselves.
        crossing, _, _ = self.update_in_flight(text, text.other_weights)
        for completion in crossing:
            tokens = completion.tokens.to_list()
            cut = completion.version_spans[0].end + self.num_late_tokens
            logits = text.other.logits(completion.prompt_tokens.to_list(), tokens)
            expected = logprobs_of(logits, tokens, 1.0)[cut:]
            measured = torch.tensor(completion.logprobs.to_list())[cut:]
            torch.testing.assert_close(measured, expected, atol=TOLERANCE, rtol=0)


class TestOnGenerate(OpenaiContract):
    """Asked by ``/inference/v1/generate``."""

    @classmethod
    def make_engine(cls, model_path: Path, encoder: PromptEncoder) -> Engine:
        return make_engine(model_path, encoder, cls.servers["vision" if encoder.has_vision else "text"])


class TestOnCompletions(OpenaiContract):
    """Asked by ``/v1/completions``."""

    takes_images = False
    num_late_tokens = 4
    """The server does not say which weights sampled what, and on a busy machine tokens arrive late."""

    @classmethod
    def make_engine(cls, model_path: Path, encoder: PromptEncoder) -> Engine:
        return make_engine(model_path, encoder, cls.servers["plain"])


class Policies:
    """The model under test with two weights."""

    def __init__(self, model_path: Path, folder: Path) -> None:
        self.model_path = model_path
        self.encoder = PromptEncoder(model_path)
        own, other = model_path / "model.safetensors", folder / "other.safetensors"
        write_other_weights(model_path, other)
        self.files = {3: WeightsFile(path=own), 4: WeightsFile(path=other)}
        self.policies = {3: PlainPolicy(model_path, own), 4: PlainPolicy(model_path, other)}

    def ask(self, number: int, *, num_questions: int = 4, **sampling: Any) -> GenerationRequest:
        encoded = self.encoder.encode([Message(role="user", content=f"Question {number % num_questions}?")], ())
        chosen = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 20, "seed": number, **sampling}
        return GenerationRequest(id=f"{number}", prompt_tokens=encoded.tokens, sampling=Sampling(**chosen))

    def assert_logprobs(self, completion: Completion) -> None:
        """Compare the tokens of each version with a full forward of its policy."""
        prompt, tokens = completion.prompt_tokens.to_list(), completion.tokens.to_list()
        assert completion.version_spans[-1].end == len(tokens) == len(completion.logprobs)
        measured = torch.tensor(completion.logprobs.to_list())
        for span in completion.version_spans:
            expected = logprobs_of(self.policies[span.version].logits(prompt, tokens), tokens, 1.0)
            part = slice(span.start, span.end)
            torch.testing.assert_close(measured[part], expected[part], atol=TOLERANCE, rtol=0)

    def run(self, work: Callable[[OpenaiEngine], Awaitable[Any]], *servers: VllmServer, **options: Any) -> Any:
        async def with_engine() -> Any:
            engine = make_engine(self.model_path, self.encoder, *servers, **options)
            try:
                await engine.update_weights(3, self.files[3])
                return await work(engine)
            finally:
                await engine.close()

        return asyncio.run(asyncio.wait_for(with_engine(), 240))


@pytest.fixture(scope="module")
def policies(text_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Policies:
    return Policies(text_model_path, tmp_path_factory.mktemp("policies"))


def test_a_group_shares_its_prompt_in_the_server_s_cache(servers: Servers, policies: Policies) -> None:
    long = policies.ask(1)
    tokens = replace(long.prompt_tokens, data=(long.prompt_tokens.data * 9)[: 4 * 200])

    async def work(engine: OpenaiEngine) -> int:
        for number in range(3):
            await engine.generate(replace(policies.ask(number, max_tokens=2), prompt_tokens=tokens))
        return engine.counts.cached_prompt_tokens

    assert policies.run(work, servers["text"]) >= 2 * 128


def test_two_servers_take_weights_in_flight(servers: Servers, policies: Policies) -> None:
    both = servers["text"], servers["plain"]

    async def work(engine: OpenaiEngine) -> list[Completion]:
        tasks = [asyncio.create_task(engine.generate(policies.ask(n, max_tokens=LONG))) for n in range(16)]
        await until(lambda: engine.num_running == 16)
        await asyncio.sleep(0.3)
        await engine.update_weights(4, policies.files[4])
        assert [server.get("/weight_info")["weight_version"] for server in both] == ["4", "4"]
        assert not any(server.get("/is_paused")["is_paused"] for server in both)
        return await asyncio.gather(*tasks)

    completions = policies.run(work, *both, max_batch_size=16)
    versions = {tuple(span.version for span in completion.version_spans) for completion in completions}
    assert (3, 4) in versions
    assert versions <= {(3,), (3, 4), (4,)}
    for completion in completions:
        policies.assert_logprobs(completion)


def test_a_server_that_is_killed_leaves_its_requests_to_the_other(servers: Servers, policies: Policies) -> None:
    async def work(engine: OpenaiEngine) -> tuple[list[Completion], str]:
        # The hash of a question and the random ports choose its server: of a few questions, all may have the same.
        requests = [policies.ask(n, num_questions=16, max_tokens=LONG) for n in range(16)]
        tasks = [asyncio.create_task(engine.generate(request)) for request in requests]
        await until(lambda: engine.num_running == 16)
        await asyncio.sleep(0.3)
        servers["plain"].kill()
        completions = await asyncio.gather(*tasks)
        if not engine.problem:  # it had answered all of its own by then: those that come next find it gone
            completions += await asyncio.gather(*map(engine.generate, requests))
        return completions, engine.problem

    completions, problem = policies.run(work, servers["text"], servers["plain"], max_batch_size=16)
    assert servers["plain"].url in problem
    for completion in completions:
        policies.assert_logprobs(completion)
