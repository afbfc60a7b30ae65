"""vLLM in the producer's process: its scheduler and its workers are children, which it talks to by messages.

    generate:        check -> prompt, images -> AsyncLLM --(first token, end)--> completion
    update_weights:  check -> pause, keeping what is in work -> reload -> name the version -> empty the caches -> resume

What is in work when new weights come is read anew with them, so that its next token is theirs alone.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from vllm import AsyncEngineArgs, SamplingParams
from vllm.exceptions import VLLMClientError, VLLMServerError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase

from tristream.config.engines import VllmEngineSection
from tristream.config.model import ModelSection
from tristream.policy.images import PolicyInputError
from tristream.policy.loading import longest_sequence, require_supported
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import (
    Completion,
    EngineCounts,
    EngineFailedError,
    GenerationRequest,
    WeightsFile,
)
from tristream.producer.engines.stopping import StoppingRules
from tristream.producer.engines.vllm.arguments import engine_arguments
from tristream.producer.engines.vllm.requests import (
    Sampled,
    finish_reason_of,
    make_completion,
    make_prompt,
    require_same_prompt,
    sampling_arguments,
    spans_of,
)
from tristream.producer.engines.vllm.weights import CheckpointFolder
from tristream.producer.engines.weights_check import (
    Shapes,
    checkpoint_shapes,
    is_head_tied,
    read_shapes,
    require_weights_of,
)
from tristream.runtime.errors import UserError
from tristream.wire.arrays import Tokens
from tristream.wire.events import FinishReason

LOG = logging.getLogger("tristream.producer")


def make_vllm_engine(
    section: VllmEngineSection, model: ModelSection, encoder: PromptEncoder, **further: object
) -> "VllmEngine":
    """The engine of a run file, its model loaded, with further arguments of vLLM's.

    Raises:
        UserError: vLLM cannot load the model.
    """
    require_supported(encoder.config, model.path)
    max_model_tokens = section.max_model_tokens or longest_sequence(encoder.config)
    arguments = engine_arguments(
        section,
        model,
        max_model_tokens=max_model_tokens,
        has_vision=encoder.has_vision,
        is_on_cpu=current_platform.is_cpu(),
    )
    try:
        shapes = checkpoint_shapes(model.path)
        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments | further), stat_loggers=[NoStats])
    except Exception as error:  # vLLM tells bad models, settings and machines apart by words alone
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"vLLM does not start with this model ({reason})",
            where=f"[model] path = {model.path}",
            remedy="see what it says above in this log",
        ) from error
    LOG.info("vLLM has loaded the model on %s", current_platform.device_name)
    return VllmEngine(llm, encoder, shapes, model, max_running=section.max_batch_size, max_tokens=max_model_tokens)


class NoStats(StatLoggerBase):  # type: ignore[misc]
    """Asks vLLM to time its requests, and drops all else that it counts."""

    def __init__(self, vllm_config: object, engine_index: int = 0) -> None:
        pass

    def record(self, *_args: object, **_kwargs: object) -> None:
        """Called after each step."""

    def log_engine_initialized(self) -> None:
        """Called at the start."""


@dataclass(slots=True, kw_only=True)
class InWork:
    """A request that vLLM has, as far as it has come."""

    request: GenerationRequest
    expanded: Tokens
    sampled: Sampled = field(default_factory=Sampled)
    is_begun: bool = False
    is_cut_off: bool = False


class VllmEngine:
    """An ``Engine`` of vLLM.

    Args:
        llm: vLLM with the model.
        encoder: of the model.
        shapes: of the checkpoint's weights, by name; None if they are not known.
        model: the model's section.
        max_running: requests that vLLM generates at once.
        max_tokens: most tokens of a prompt and its answer.
    """

    def __init__(
        self,
        llm: AsyncLLM,
        encoder: PromptEncoder,
        shapes: Shapes | None,
        model: ModelSection,
        *,
        max_running: int,
        max_tokens: int,
    ) -> None:
        self._llm = llm
        self._encoder = encoder
        self._shapes = shapes
        self._stopping = StoppingRules(encoder, read_generation_config(model.path, encoder))
        self._max_running = max_running
        self._max_tokens = max_tokens
        self._version: int | None = None
        self._counts = EngineCounts()
        self._in_work: dict[str, InWork] = {}
        self._folder = CheckpointFolder()
        self._updating = asyncio.Lock()
        self._failure = ""
        """Why the weights are not known, if an update broke off."""
        self._has_full_logprobs: bool | None = None
        """Whether log-probabilities are of the full distribution even if tokens are left out; None: not asked yet."""

    @property
    def version(self) -> int | None:
        """Version of the weights; None before any were loaded."""
        return self._version

    @property
    def max_running(self) -> int:
        """Requests that it generates at once; more wait in its queue."""
        return self._max_running

    @property
    def num_running(self) -> int:
        """Requests with a first token and without a last one."""
        return min(self._max_running, sum(work.is_begun for work in self._in_work.values()))

    @property
    def counts(self) -> EngineCounts:
        """What it has done."""
        return self._counts

    async def generate(self, request: GenerationRequest) -> Completion:
        """Complete a prompt; one whose task is cancelled is forgotten.

        Raises:
            PolicyInputError: this model cannot answer it; nothing else is affected.
            EngineFailedError: vLLM failed, and with it everything in work.
        """
        work = InWork(request=request, expanded=self._require_answerable(request))
        params = SamplingParams(
            **sampling_arguments(request.sampling, self._encoder, self._stopping), output_kind=RequestOutputKind.DELTA
        )
        prompt = await asyncio.to_thread(make_prompt, request, self._encoder.max_image_pixels)
        self._in_work[request.id] = work
        try:
            return await self._follow(work, self._llm.generate(prompt, params, request.id))
        except VLLMClientError as error:
            raise PolicyInputError(f"vLLM refuses it: {error}") from None
        except EngineGenerateError as error:
            if self._llm.errored:
                raise EngineFailedError(f"vLLM failed: {error.__cause__}") from error
            raise PolicyInputError(f"vLLM cannot read it: {error.__cause__}") from error
        except VLLMServerError as error:
            raise EngineFailedError(f"vLLM failed: {error}") from error
        finally:
            del self._in_work[request.id]

    async def update_weights(self, version: int, weights: WeightsFile) -> None:
        """Take the weights of a version; what is in work keeps its tokens and goes on with them.

        Raises:
            ValueError: they are not those of this model; it keeps the ones it has.
            EngineFailedError: vLLM failed, and with it everything in work.
        """
        if weights.is_adapter:
            raise ValueError("adapters are not loaded into vLLM")
        await asyncio.to_thread(self._require_own, weights)
        # An update that was begun ends, whatever becomes of who asked for it: vLLM is never left paused.
        await asyncio.shield(asyncio.create_task(self._update(version, weights)))

    async def close(self) -> None:
        """End vLLM's processes; what is in work is forgotten."""
        self._llm.shutdown()
        self._folder.close()

    def _require_answerable(self, request: GenerationRequest) -> Tokens:
        if self._version is None:
            raise EngineFailedError(self._failure or "no weights were loaded")
        sampling = request.sampling
        if not request.prompt_tokens:
            raise PolicyInputError("the prompt is empty")
        if sampling.is_truncated and not self._has_full_logprobs:
            raise PolicyInputError(
                "with top_p, top_k and min_p, vLLM's second model runner has no log-probabilities of the full "
                "distribution: set the environment variable VLLM_USE_V2_MODEL_RUNNER=0 for the first"
            )
        expanded = self._encoder.expand(request.prompt_tokens, request.images)
        if len(expanded) + sampling.max_tokens > self._max_tokens:
            raise PolicyInputError(
                f"a prompt of {len(expanded)} tokens and an answer of {sampling.max_tokens} "
                f"are longer than the model's {self._max_tokens}"
            )
        return expanded

    def _require_own(self, weights: WeightsFile) -> None:
        given, config = read_shapes(weights.path), self._encoder.config
        require_weights_of(self._shapes, given, weights.path, is_head_tied=is_head_tied(config))

    async def _follow(self, work: InWork, stream: AsyncGenerator[Any, None]) -> Completion:
        async with aclosing(stream), AsyncExitStack() as stack:
            async for output in stream:
                if not work.is_begun:
                    require_same_prompt(work.expanded, output.prompt_token_ids)
                    work.is_begun = True
                    if work.request.max_seconds is not None:
                        stack.enter_context(self._cut_off_after(work, work.request.max_seconds))
                work.sampled.add(output.outputs[0])
                if output.finished:
                    return self._complete(work, output)
        raise EngineFailedError("vLLM ended an answer without a word")

    @contextmanager
    def _cut_off_after(self, work: InWork, seconds: float) -> Iterator[None]:
        """Ask vLLM to end an answer that is in work for longer; it still tells the tokens."""

        async def cut_off() -> None:
            await asyncio.sleep(seconds)
            work.is_cut_off = True
            await self._llm.abort(work.request.id)

        task = asyncio.create_task(cut_off())
        try:
            yield
        finally:
            task.cancel()

    def _complete(self, work: InWork, output: Any) -> Completion:  # noqa: ANN401 - vLLM is not installed everywhere
        last, num_tokens = output.outputs[0], len(work.sampled.tokens)
        reason = finish_reason_of(last) or (FinishReason.LENGTH if work.is_cut_off else None)
        if reason is None or self._version is None:
            raise EngineFailedError(self._failure or f"vLLM gave an answer up ({last.finish_reason})")
        self._counts.sampled_tokens += num_tokens
        self._counts.prompt_tokens += len(work.expanded)
        self._counts.cached_prompt_tokens += output.num_cached_tokens or 0
        spans = spans_of(last, num_tokens, self._version)
        return make_completion(work.request, work.expanded, work.sampled, spans, reason, output.metrics)

    async def _update(self, version: int, weights: WeightsFile) -> None:
        async with self._updating:
            try:
                if self._has_full_logprobs is None:
                    self._has_full_logprobs = all(await self._llm.collective_rpc("keep_full_logprobs"))
                folder = self._folder.link(weights.path)
                # The pixels that vLLM keeps depend on no weights; what does is emptied below.
                await self._llm.pause_generation(mode="keep", clear_cache=False)
                try:
                    await self._replace_weights(version, str(folder))
                finally:
                    await self._llm.resume_generation()
            except Exception as error:  # vLLM passes on what its processes raised, of every kind
                raise EngineFailedError(f"vLLM did not take the weights of version {version}: {error}") from error

    async def _replace_weights(self, version: int, folder: str) -> None:
        try:
            await self._llm.collective_rpc("take_weights", args=(folder,))
            await self._llm.update_weight_version(str(version))
            if not await self._llm.reset_prefix_cache(reset_running_requests=True):
                raise EngineFailedError("its prefix cache was not emptied")
            if self._encoder.has_vision:
                await self._llm.reset_encoder_cache()
        except Exception as error:
            self._version, self._failure = None, f"an update of the weights broke off: {error}"
            with suppress(Exception):  # a dead engine has nothing in work
                await self._llm.abort(list(self._in_work))
            raise
        self._version = version


def read_generation_config(path: Path, encoder: PromptEncoder) -> GenerationConfig:
    """What the model's folder says about generation; of it the tokens that end an answer are used."""
    try:
        return GenerationConfig.from_pretrained(path)
    except (OSError, ValueError):
        return GenerationConfig.from_model_config(encoder.config)
