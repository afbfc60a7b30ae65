"""An inference engine on transformers, for small machines.

Requests join the running batch whenever enough slots are free; equal prompts that join together are
prefilled once. Finished rows leave the batch when there are enough of them to be worth the copy.

    submit -> waiting --(slots free: prefill once a prompt)--> rows --(one token a step)--> completions
"""
# ruff: noqa: N803, N806 - names of tensors end in the letters of their shape

import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tristream.config.engines import TransformersEngineSection
from tristream.config.model import ModelSection
from tristream.policy.images import PolicyInputError, ProcessedImage, num_image_tokens, process_image
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.policy.tokens import image_token_id, token_tensor
from tristream.producer.engines.decode_batch import DecodeBatch, Row, SamplingTensors
from tristream.producer.engines.decoding_policy import DecodingPolicy, PreparedPrompt
from tristream.producer.engines.protocol import Completion, GenerationRequest
from tristream.producer.engines.sampling import UNIFORM_BITS, sample_tokens
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import FinishReason, VersionSpan

LOG = logging.getLogger("tristream.producer")

PREFILL_TOKENS = 8192
"""Most prompt tokens, padding included, that are read at once."""
LEAVE_FRACTION = 0.1
"""Finished rows leave once they are this share of the batch."""
JOIN_FRACTION = 0.25
"""Requests join a running batch once this share of the slots is free."""

PromptKey = tuple[Tokens, tuple[bytes, ...]]


def make_transformers_engine(
    section: TransformersEngineSection, model: ModelSection, encoder: PromptEncoder
) -> "TransformersEngine":
    """The engine of a run file, its model loaded; sets how many threads this process computes with.

    Raises:
        UserError: the model cannot be loaded, or the engine does not support it.
    """
    torch.set_num_threads(section.num_threads)
    policy = DecodingPolicy(model.path, model.precision)
    LOG.info("model is loaded on %s", policy.device)
    return TransformersEngine(encoder, policy, max_batch_size=section.max_batch_size)


class TransformersEngine:
    """An ``Engine`` that decodes all running requests together, one token a step."""

    def __init__(self, encoder: PromptEncoder, model: DecodingPolicy, *, max_batch_size: int) -> None:
        self._encoder = encoder
        self._model = model
        self._max_batch_size = max_batch_size
        self._waiting: deque[GenerationRequest] = deque()
        self._prepared: dict[PromptKey, PreparedPrompt] = {}
        self._batch: DecodeBatch | None = None
        self._version: int | None = None
        self._stop_tokens = stop_token_ids(encoder, model)

    @property
    def version(self) -> int | None:
        """Version of the weights; None before any were loaded."""
        return self._version

    @property
    def num_waiting(self) -> int:
        """Requests submitted and not begun."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests begun and not finished."""
        return 0 if self._batch is None else sum(row.finish_reason is None for row in self._batch.rows)

    @property
    def num_free_slots(self) -> int:
        """Requests that could be submitted and begun at once."""
        return max(0, self._max_batch_size - self.num_waiting - self.num_running)

    def load_weights(self, version: int, path: Path) -> None:
        """Take the weights of a version; nothing may be running."""
        if self._waiting or self._batch is not None:
            raise RuntimeError(f"version {version} cannot be loaded while requests are in work")
        self._model.load_weights(path)
        self._version = version

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request."""
        self._require_room(request)
        if _key(request) not in self._prepared:
            self._prepared[_key(request)] = self._prepare(request)
        self._waiting.append(request)

    def step(self) -> Sequence[Completion]:
        """Let requests join or decode one token a row; return what finished."""
        if self._waiting and self._is_time_to_join():
            self._join_waiting()
        elif self._batch is not None:
            self._decode(self._batch)
        if self._batch is None:
            return ()
        completions = self._finish_rows(self._batch)
        self._leave(self._batch)
        return completions

    def reset(self) -> None:
        """Forget all requests; the weights stay."""
        self._waiting.clear()
        self._prepared.clear()
        self._batch = None

    def _is_time_to_join(self) -> bool:
        return self._batch is None or self.num_running <= self._max_batch_size * (1 - JOIN_FRACTION)

    def _join_waiting(self) -> None:
        num_joining = min(len(self._waiting), self._max_batch_size - self.num_running)
        groups: dict[PromptKey, list[GenerationRequest]] = {}
        for _ in range(num_joining):
            request = self._waiting.popleft()
            groups.setdefault(_key(request), []).append(request)
        for chunk in _chunks(sorted(groups, key=lambda key: len(key[0])), PREFILL_TOKENS):
            batch = self._prefill([(self._prepared[key], groups[key]) for key in chunk])
            if self._batch is None:
                self._batch = batch
            else:
                self._batch.join(batch)
        still_wanted = {_key(request) for request in self._waiting}
        self._prepared = {key: prompt for key, prompt in self._prepared.items() if key in still_wanted}

    def _prefill(self, groups: Sequence[tuple[PreparedPrompt, list[GenerationRequest]]]) -> DecodeBatch:
        started_ns = time.time_ns()
        counts = [len(requests) for _, requests in groups]
        prefilled = self._model.prefill([prompt for prompt, _ in groups], counts)
        rows = [
            Row(request=request, uniforms=random.Random(request.sampling.seed), started_ns=started_ns)
            for _, requests in groups
            for request in requests
        ]
        prompt_B = prefilled.cache.prompt_B
        batch = DecodeBatch(
            rows=rows,
            cache=prefilled.cache,
            position_B=prefilled.next_position_P[prompt_B],
            sampling=SamplingTensors.of(rows, prompt_B.device),
        )
        self._sample(batch, prefilled.logits_PV[prompt_B])
        return batch

    def _decode(self, batch: DecodeBatch) -> None:
        logits_BV = self._model.decode(batch.token_B, batch.position_B, batch.cache)
        batch.position_B = batch.position_B + 1
        self._sample(batch, logits_BV)

    def _sample(self, batch: DecodeBatch, logits_BV: Tensor) -> None:
        uniforms = [row.uniforms.getrandbits(UNIFORM_BITS) / 2**UNIFORM_BITS for row in batch.rows]
        sampling = batch.sampling
        uniform_B = torch.tensor(uniforms, device=logits_BV.device)
        batch.token_B, logprob_B = sample_tokens(logits_BV, sampling.temperature_B, sampling.top_p_B, uniform_B)
        for row, token, logprob in zip(batch.rows, batch.token_B.tolist(), logprob_B.tolist(), strict=True):
            row.append(token, logprob, self._stop_tokens)

    def _finish_rows(self, batch: DecodeBatch) -> list[Completion]:
        completions = []
        for row in batch.rows:
            if row.finish_reason is not None and not row.is_reported:
                row.is_reported = True
                completions.append(self._completion(row, row.finish_reason))
        return completions

    def _completion(self, row: Row, finish_reason: FinishReason) -> Completion:
        if self._version is None:
            raise RuntimeError("no weights were loaded, so completions have no version")
        return Completion(
            id=row.request.id,
            tokens=Tokens.of(row.tokens),
            logprobs=LogProbs.of(row.logprobs),
            version_spans=(VersionSpan(version=self._version, start=0, end=len(row.tokens)),),
            finish_reason=finish_reason,
            started_ns=row.started_ns,
            generate_seconds=(time.time_ns() - row.started_ns) / 1e9,
        )

    def _leave(self, batch: DecodeBatch) -> None:
        running = [index for index, row in enumerate(batch.rows) if row.finish_reason is None]
        num_finished = len(batch.rows) - len(running)
        if not running:
            self._batch = None
        elif num_finished >= max(1, LEAVE_FRACTION * len(batch.rows)):
            batch.keep(running)

    def _prepare(self, request: GenerationRequest) -> PreparedPrompt:
        if not request.prompt_tokens:
            raise PolicyInputError("the prompt is empty")
        prompt = PreparedPrompt(
            tokens=token_tensor(request.prompt_tokens), images=tuple(self._process(image) for image in request.images)
        )
        config = self._encoder.config
        num_features = sum(num_image_tokens(config, image) for image in prompt.images)
        placeholder = image_token_id(config)
        num_placeholders = 0 if placeholder is None else int((prompt.tokens == placeholder).sum())
        if num_features != num_placeholders:
            raise PolicyInputError(f"the prompt has {num_placeholders} placeholders for {num_features} image features")
        return prompt

    def _process(self, image: bytes) -> ProcessedImage:
        if self._encoder.image_processor is None:
            raise PolicyInputError("the model takes no images")
        digest = hashlib.sha256(image).hexdigest()
        processor, max_pixels = self._encoder.image_processor, self._encoder.max_image_pixels
        return process_image(processor, image, digest, max_pixels=max_pixels)

    def _require_room(self, request: GenerationRequest) -> None:
        longest = self._encoder.config.get_text_config().max_position_embeddings
        wanted = len(request.prompt_tokens) + request.sampling.max_tokens
        if wanted > longest:
            raise PolicyInputError(
                f"a prompt of {len(request.prompt_tokens)} tokens and an answer of {request.sampling.max_tokens} "
                f"are longer than the model's {longest}"
            )


def _key(request: GenerationRequest) -> PromptKey:
    return request.prompt_tokens, request.images


def _chunks(keys: Sequence[PromptKey], max_tokens: int) -> Sequence[Sequence[PromptKey]]:
    """Split prompts, shortest first, so that each chunk padded to its longest fits; at least one a chunk."""
    chunks: list[list[PromptKey]] = []
    for key in keys:
        if chunks and (len(chunks[-1]) + 1) * len(key[0]) <= max_tokens:
            chunks[-1].append(key)
        else:
            chunks.append([key])
    return chunks


def stop_token_ids(encoder: PromptEncoder, model: DecodingPolicy) -> frozenset[int]:
    """Tokens that end a completion: those of the generation settings and of the tokenizer."""
    configured = getattr(model.model.generation_config, "eos_token_id", None)
    tokens = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (*tokens, encoder.tokenizer.eos_token_id) if token is not None)
