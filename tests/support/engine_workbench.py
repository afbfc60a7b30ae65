"""An engine under test on an event loop of its own, with the policies that it should be."""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plain_policy import PlainPolicy, write_other_weights
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import Completion, Engine, GenerationRequest, WeightsFile
from tristream.wire.arrays import Tokens
from tristream.wire.events import Message, Sampling

TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """An engine under test, with the policies that it should be."""

    engine: Engine
    encoder: PromptEncoder
    weights: WeightsFile
    """Those of the checkpoint."""
    other_weights: WeightsFile
    plain: PlainPolicy
    """The policy of ``weights``."""
    other: PlainPolicy
    """The policy of ``other_weights``."""
    runner: asyncio.Runner
    versions: Iterator[int] = field(default_factory=lambda: itertools.count(3))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run on the engine's event loop."""
        return self.runner.run(asyncio.wait_for(work, TIMEOUT_SECONDS))

    async def load(self, weights: WeightsFile) -> int:
        """Give the engine weights, under a version of their own."""
        version = next(self.versions)
        await self.engine.update_weights(version, weights)
        return version

    def complete(self, *requests: GenerationRequest) -> list[Completion]:
        """The completions of requests in work together."""

        async def work() -> list[Completion]:
            return await asyncio.gather(*(self.engine.generate(request) for request in requests))

        completions: list[Completion] = self.run(work())
        assert [completion.id for completion in completions] == [request.id for request in requests]
        return completions

    def ask(
        self, request_id: str, question: str = "Why?", images: Sequence[bytes] = (), **sampling: Any
    ) -> GenerationRequest:
        """A request of one turn; its seed is one of its own unless one is given."""
        return make_request(self.encoder, request_id, question, images, **sampling)

    def text_of(self, tokens: Sequence[int]) -> str:
        """Text of tokens, without special ones."""
        return self.encoder.decode(Tokens.of(tokens))


def make_request(
    encoder: PromptEncoder, request_id: str, question: str = "Why?", images: Sequence[bytes] = (), **sampling: Any
) -> GenerationRequest:
    """A request of one turn; its seed is one of its own unless one is given."""
    encoded = encoder.encode([Message(role="user", content="<image>" * len(images) + question)], images)
    seed = random.Random(request_id).getrandbits(60)
    chosen = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 12, "seed": seed} | sampling
    return GenerationRequest(
        id=request_id, prompt_tokens=encoded.tokens, images=tuple(images), sampling=Sampling(**chosen)
    )


@contextmanager
def workbench(
    make_engine: Callable[[Path, PromptEncoder], Engine], model_path: Path, folder: Path
) -> Iterator[Workbench]:
    """An engine on an event loop of its own, with the weights of its checkpoint."""

    async def make() -> Engine:
        return make_engine(model_path, encoder)

    encoder = PromptEncoder(model_path)
    own, other = model_path / "model.safetensors", folder / "other.safetensors"
    write_other_weights(model_path, other)
    with asyncio.Runner() as runner:
        bench = Workbench(
            engine=runner.run(make()),
            encoder=encoder,
            weights=WeightsFile(path=own),
            other_weights=WeightsFile(path=other),
            plain=PlainPolicy(model_path, own),
            other=PlainPolicy(model_path, other),
            runner=runner,
        )
        bench.run(bench.load(bench.weights))
        yield bench
        bench.run(bench.engine.close())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    while not condition():
        await asyncio.sleep(0.001)
