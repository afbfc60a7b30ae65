"""Requests to prompts that the model can read: placeholders expanded, images cut into patches; equal ones once."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from weakref import WeakValueDictionary

from tristream.policy.images import PolicyInputError, ProcessedImage, num_image_tokens, process_image
from tristream.policy.loading import longest_sequence
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import GenerationRequest
from tristream.producer.engines.transformers.decoding_policy import PreparedPrompt
from tristream.wire.arrays import Tokens

PromptKey = tuple[Tokens, tuple[bytes, ...]]

KEPT_BYTES = 256 * 2**20
"""Processed images kept, since held-out ones come back in every round; those that were wanted last stay."""


class RequestReader:
    """Reads requests on one event loop; images are processed in threads beside it."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._prepared: WeakValueDictionary[PromptKey, PreparedPrompt] = WeakValueDictionary()
        self._in_work: dict[PromptKey, asyncio.Task[PreparedPrompt]] = {}
        self._images: OrderedDict[bytes, ProcessedImage] = OrderedDict()
        self._num_image_bytes = 0

    async def read(self, request: GenerationRequest) -> PreparedPrompt:
        """The prompt of a request; the same object for equal prompts in work.

        Raises:
            PolicyInputError: this model cannot answer it.
        """
        key = request.prompt_tokens, request.images
        prompt = self._prepared.get(key) or await self._prepare_once(key)
        self._require_room(len(prompt.tokens), request)
        return prompt

    async def _prepare_once(self, key: PromptKey) -> PreparedPrompt:
        task = self._in_work.get(key)
        if task is None:
            task = self._in_work[key] = asyncio.create_task(self._prepare(*key))
            task.add_done_callback(lambda _: self._in_work.pop(key))
        prompt = await asyncio.shield(task)
        return self._prepared.setdefault(key, prompt)

    async def _prepare(self, tokens: Tokens, images: Sequence[bytes]) -> PreparedPrompt:
        if not tokens:
            raise PolicyInputError("the prompt is empty")
        expanded = self._encoder.expand(tokens, images)
        if len(expanded) > self._max_tokens:
            raise PolicyInputError(f"a prompt of {len(expanded)} tokens is longer than the model's {self._max_tokens}")
        processed = await self._processed(images)
        num_features = sum(num_image_tokens(self._encoder.config, image) for image in processed)
        if len(expanded) != len(tokens) - len(images) + num_features:
            raise PolicyInputError(f"the placeholders of the prompt are not those of {num_features} image features")
        return PreparedPrompt(tokens=expanded, images=processed)

    async def _processed(self, images: Sequence[bytes]) -> tuple[ProcessedImage, ...]:
        processed = {image: self._images[image] for image in images if image in self._images}
        fresh = [image for image in dict.fromkeys(images) if image not in processed]
        if fresh:
            processed.update(zip(fresh, await asyncio.to_thread(self._process, fresh), strict=True))
        for image in images:
            self._keep(image, processed[image])
        return tuple(processed[image] for image in images)

    def _keep(self, image: bytes, processed: ProcessedImage) -> None:
        if image not in self._images:
            self._num_image_bytes += len(image) + processed.num_bytes
        self._images[image] = processed
        self._images.move_to_end(image)
        while self._num_image_bytes > KEPT_BYTES:
            oldest, of_oldest = self._images.popitem(last=False)
            self._num_image_bytes -= len(oldest) + of_oldest.num_bytes

    def _process(self, images: Sequence[bytes]) -> tuple[ProcessedImage, ...]:
        processor, max_pixels = self._encoder.image_processor, self._encoder.max_image_pixels
        return tuple(
            process_image(processor, image, hashlib.sha256(image).hexdigest(), max_pixels=max_pixels)
            for image in images
        )

    def _require_room(self, num_prompt_tokens: int, request: GenerationRequest) -> None:
        if num_prompt_tokens + request.sampling.max_tokens > self._max_tokens:
            raise PolicyInputError(
                f"a prompt of {num_prompt_tokens} tokens and an answer of {request.sampling.max_tokens} "
                f"are longer than the model's {self._max_tokens}"
            )

    @property
    def _max_tokens(self) -> int:
        return longest_sequence(self._encoder.config)
