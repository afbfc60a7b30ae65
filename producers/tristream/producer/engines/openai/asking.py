"""One request to one server: tokens are added to a completion as they come, whatever becomes of the rest."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.policy.tokens import excluded_token_ids
from tristream.producer.engines.openai.partial import PartialCompletion, find_stop
from tristream.producer.engines.openai.probing import ServerKind, why_refused
from tristream.producer.engines.openai.servers import Server
from tristream.producer.engines.openai.wire import (
    BadAnswerError,
    Chunk,
    ServerError,
    ServerFailedError,
    TokensWanted,
    read_event,
)
from tristream.wire.arrays import Tokens
from tristream.wire.events import FinishReason

ABORT = "abort"
"""How a server says that it ended a request that could go on."""
FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class Asker:
    """Asks servers for tokens of one model."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._excluded = excluded_token_ids(encoder.config)

    async def ask(self, server: Server, partial: PartialCompletion, deadline: float | None) -> FinishReason | None:
        """Add a server's tokens to a completion; None if the server got other weights before it is whole.

        Raises:
            TimeoutError: the deadline, by the loop's clock, is over.
            ServerError: the server failed; the tokens up to there are kept.
            PolicyInputError: the request cannot be answered.
        """
        assert server.kind is not None, "a server that serves was probed"
        wanted = self._wanted(server.kind, partial)
        if wanted.sampling.max_tokens <= 0:
            return FinishReason.LENGTH
        try:
            async with server.asked(deadline):
                return await self._read(server, server.kind, wanted, partial)
        except TimeoutError:
            if deadline is not None and asyncio.get_running_loop().time() >= deadline:
                raise
            return None

    async def _read(
        self, server: Server, kind: ServerKind, wanted: TokensWanted, partial: PartialCompletion
    ) -> FinishReason:
        finished: FinishReason | None = None
        try:
            async with aclosing(server.http.stream(kind.wire.path, kind.wire.body(wanted, kind.model))) as stream:
                async for data in stream:
                    chunk = read_event(kind.wire, data, len(partial.tokens) - partial.part_start)
                    if finished is not None:  # what comes then are counts
                        partial.note_cached(chunk)
                        continue
                    num_before = len(partial.tokens)
                    self._take(chunk, partial, server.version)
                    end = find_stop(self._decode, partial, num_before)
                    if end is not None:
                        partial.cut(end)
                        return FinishReason.STOP
                    finished = FINISH_REASONS.get(chunk.finish_reason or "")
        except ServerError:
            if finished is None:
                raise
        if finished is None:
            raise BadAnswerError("its answer ended without a reason")
        return finished

    def _wanted(self, kind: ServerKind, partial: PartialCompletion) -> TokensWanted:
        """What is still wanted of a completion.

        Raises:
            PolicyInputError: such a server cannot answer it.
        """
        request = partial.request
        problem = why_refused(kind.logprobs_mode, request.sampling)
        if request.images and not kind.wire.takes_images:
            problem = "the servers take no images beside token ids: start vLLM with --enable-scale-out"
        if problem:
            raise PolicyInputError(problem)
        sampling = partial.begin_part()
        if kind.max_model_tokens is not None:
            room = kind.max_model_tokens - len(partial.expanded_prompt) - len(partial.tokens)
            if room <= 0 and not partial.tokens:
                raise PolicyInputError(
                    f"the prompt has {len(partial.expanded_prompt)} tokens, and the servers take "
                    f"{kind.max_model_tokens} with the answer"
                )
            sampling = replace(sampling, max_tokens=min(sampling.max_tokens, room))
        prompt = [*request.prompt_tokens.to_list(), *partial.tokens]
        return TokensWanted(prompt=prompt, images=request.images, sampling=sampling, excluded=self._excluded)

    def _take(self, chunk: Chunk, partial: PartialCompletion, version: int) -> None:
        """Add tokens to a completion.

        Raises:
            BadAnswerError: they are not what was asked.
            ServerFailedError: the server ended the request.
        """
        if chunk.prompt_tokens is not None:
            _require_prompt(chunk.prompt_tokens, partial)
        if len(partial.tokens) + len(chunk.tokens) > partial.request.sampling.max_tokens:
            raise BadAnswerError("it sent more tokens than were asked")
        partial.add(chunk, version)
        if chunk.finish_reason == ABORT:
            raise ServerFailedError("it ended the request")
        if chunk.finish_reason is not None and chunk.finish_reason not in FINISH_REASONS:
            raise BadAnswerError(f"it finished for '{chunk.finish_reason}'")

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._encoder.decode(Tokens.of(tokens))


def _require_prompt(prompt_tokens: Sequence[int], partial: PartialCompletion) -> None:
    """Check that the server has read the prompt as the learner will.

    Raises:
        PolicyInputError: it makes another number of placeholders of an image.
        BadAnswerError: it answers another prompt.
    """
    expected = [*partial.expanded_prompt.to_list(), *partial.tokens[: partial.part_start]]
    if list(prompt_tokens) == expected:
        return
    if partial.request.images:
        raise PolicyInputError(
            f"the server reads the prompt with its images as {len(prompt_tokens)} tokens, and the model's own "
            f"processor as {len(expected)}"
        )
    raise BadAnswerError("it answers another prompt than was asked")
