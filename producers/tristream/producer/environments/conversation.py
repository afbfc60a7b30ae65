"""A conversation with the policy as tokens, for one rollout: the ``Client`` of its environment.

What was sampled is never encoded again. The prompt of a turn is exactly the tokens of the turns before and what was
added; the engine expands image placeholders, and what it has read beyond the earlier turns is the given segment.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from tristream.policy.prompt_encoder import EncodedPrompt, PromptEncoder
from tristream.policy.turns import turns_of
from tristream.producer.engines.protocol import Completion, GenerationRequest, Generator
from tristream.producer.environments.contract import Answer, EnvironmentMisuseError, RolloutExhaustedError
from tristream.producer.environments.pending import PendingInput
from tristream.wire.arrays import Tokens
from tristream.wire.events import FinishReason, Image, Message, Sampling, Segment, given, sampled
from tristream.wire.seeds import derive_seed

ASSISTANT = "assistant"


class PrefixLostError(Exception):
    """The engine has read something else than the tokens of the earlier turns and what was added."""


class Conversation:
    """One conversation; each turn is one request of an engine.

    Args:
        engine: who answers.
        encoder: of the same model.
        request_id: id of the first turn's request; turn n has ``ID#n``.
        first: the first prompt, unexpanded.
        messages: what it was rendered from.
        images: its encoded images.
        wire_images: the same as they are published.
        sampling: of the whole rollout; ``max_tokens`` is the sum over its turns, and the seed is that of the first.
        max_seconds: from the begin of the first answer to the end of the last.
        put_image: how an added image is published.
    """

    def __init__(
        self,
        engine: Generator,
        encoder: PromptEncoder,
        *,
        request_id: str,
        first: EncodedPrompt,
        messages: tuple[Message, ...],
        images: Sequence[bytes],
        wire_images: tuple[Image, ...],
        sampling: Sampling,
        max_seconds: float,
        put_image: Callable[[bytes], Image],
    ) -> None:
        self._engine, self._encoder = engine, encoder
        self._request_id, self._sampling, self._max_seconds = request_id, sampling, max_seconds
        self._put_image = put_image
        self._pending = PendingInput.first(encoder, first, messages, tuple(images), wire_images)
        self._said = list(messages)
        self._asked: tuple[Message, ...] = messages
        self._first, self._before_answer = first, first.tokens.data
        self._tokens, self._read = b"", b""
        self._images: tuple[bytes, ...] = ()
        self._segments: list[Segment] = []
        self._is_policys_turn_shown = False
        self._has_policy_ended = False
        self._is_answering = False
        self._is_exhausted = False
        self.completions: list[Completion] = []
        """What the engine has answered, one a turn."""
        self.text = ""
        """What the policy sampled last, without special tokens: the answer that verifiers judge."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The conversation so far, image placeholders expanded."""
        if not self._pending.tokens:
            return tuple(self._segments)
        return (*self._segments, self._pending.segment())

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation before the last answer; what the policy has said of that turn before is the last one."""
        return self._asked

    @property
    def prompt_text(self) -> str:
        """The same as the model has read it, with one placeholder for each image."""
        added = Tokens(self._before_answer[len(self._first.tokens.data) :]).to_list()
        return self._first.text + str(self._encoder.tokenizer.decode(added, skip_special_tokens=False))

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended: as its last turn, or ``length`` if the environment asked on with nothing left."""
        if not self.completions:
            return FinishReason.ERROR
        return FinishReason.LENGTH if self._is_exhausted else self.completions[-1].finish_reason

    @property
    def started_ns(self) -> int:
        """When the first answer was begun; 0 before it."""
        return self.completions[0].started_ns if self.completions else 0

    @property
    def generate_seconds(self) -> float:
        """Time of all answers."""
        return sum(completion.generate_seconds for completion in self.completions)

    @property
    def num_tokens_left(self) -> int:
        """Tokens that the policy may still sample; none once its time is over."""
        if self._seconds_left() <= 0:
            return 0
        return self._sampling.max_tokens - sum(len(completion.tokens) for completion in self.completions)

    async def answer(self, *, max_tokens: int | None = None, stop: Sequence[str] = ()) -> Answer:
        """See ``Client``.

        Raises:
            RolloutExhaustedError: no token or no time is left.
            EnvironmentMisuseError: the policy has ended its turn, or is asked for nothing.
            PolicyInputError: the model cannot answer it.
            PrefixLostError: the engine did not read what it was given.
            EngineFailedError: the engine failed.
        """
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        self._require_answerable(max_tokens, stops)
        request = self._request(max_tokens, stops)
        self._is_answering = True
        try:
            completion = await self._engine.generate(request)
        finally:
            self._is_answering = False
        self._take(request, completion)
        return Answer(text=self.text, tokens=completion.tokens, finish_reason=completion.finish_reason)

    def add(self, role: str, content: str, *, images: Sequence[bytes] = ()) -> None:
        """See ``Client``.

        Raises:
            EnvironmentMisuseError: the role is the policy's own.
            PolicyInputError: the template, the tokenizer or the model refuses it.
        """
        self._require_silent()
        if role == ASSISTANT:
            raise EnvironmentMisuseError("the policy's own turn is not added; add_text puts text into it")
        message = Message(role=role, content=content)
        self._pending.add(message, images, [self._put_image(image) for image in images])
        if self._pending.is_first_prompt:
            self._first = EncodedPrompt(tokens=self._pending.tokens, text=self._pending.prompt_text)
        self._said.append(message)
        self._is_policys_turn_shown = False

    def add_text(self, text: str) -> None:
        """See ``Client``.

        Raises:
            EnvironmentMisuseError: the policy has ended its turn.
            PolicyInputError: the tokenizer refuses it.
        """
        self._require_silent()
        self._require_open_turn()
        self._pending.add_text(text)
        self._show(text)

    def _request(self, max_tokens: int | None, stops: tuple[str, ...]) -> GenerationRequest:
        turn, sampling = len(self.completions), self._sampling
        num_tokens = self.num_tokens_left if max_tokens is None else min(max_tokens, self.num_tokens_left)
        return GenerationRequest(
            id=f"{self._request_id}#{turn}" if turn else self._request_id,
            prompt_tokens=Tokens(self._tokens + self._pending.tokens.data),
            images=(*self._images, *self._pending.images),
            sampling=replace(
                sampling,
                max_tokens=num_tokens,
                seed=derive_seed(sampling.seed, turn) if turn else sampling.seed,
                stop=tuple(dict.fromkeys((*sampling.stop, *stops))),
            ),
            max_seconds=self._seconds_left(),
        )

    def _take(self, request: GenerationRequest, completion: Completion) -> None:
        """Settle what was pending and its answer, as the engine tells them."""
        read = self._beyond_earlier_turns(completion)
        if self._pending.tokens:
            self._segments.append(given(Tokens(read), self._pending.wire_images))
        if completion.tokens:
            self._segments.append(sampled(completion.tokens, completion.logprobs, completion.version_spans))
        self._before_answer, self._images = request.prompt_tokens.data, request.images
        self._tokens = request.prompt_tokens.data + completion.tokens.data
        self._read = completion.prompt_tokens.data + completion.tokens.data
        self.completions.append(completion)
        last = completion.tokens.to_list()[-1] if completion.tokens else None
        self._pending = PendingInput.after(self._encoder, last)
        self._has_policy_ended = (
            completion.finish_reason is FinishReason.STOP
            and last is not None
            and last not in self._sampling.stop_token_ids
            and turns_of(self._encoder).ends_turn(last)
        )
        self.text = self._encoder.decode(completion.tokens)
        self._asked = tuple(self._said)
        self._show(self.text)

    def _beyond_earlier_turns(self, completion: Completion) -> bytes:
        read, earlier = completion.prompt_tokens.data, self._read
        expected = self._encoder.expand(self._pending.tokens, self._pending.images).data
        if not read.startswith(earlier) or read[len(earlier) :] != expected:
            raise PrefixLostError(
                f"the engine read {len(completion.prompt_tokens)} tokens in turn {len(self.completions)}, not the "
                f"{len(Tokens(earlier))} of the earlier turns and the {len(Tokens(expected))} that were added"
            )
        return expected

    def _show(self, text: str) -> None:
        """Put what the policy has said, or what was put into its mouth, where verifiers see it."""
        if self._is_policys_turn_shown:
            text = self._said.pop().content + text
        self._said.append(Message(role=ASSISTANT, content=text))
        self._is_policys_turn_shown = True

    def _seconds_left(self) -> float:
        if not self.completions:
            return self._max_seconds
        return self._max_seconds - (time.time_ns() - self.started_ns) / 1e9

    def _require_answerable(self, max_tokens: int | None, stops: tuple[str, ...]) -> None:
        self._require_silent()
        if (max_tokens is not None and max_tokens < 1) or "" in stops:
            raise EnvironmentMisuseError("an answer has at least one token, and an empty text stops nothing")
        self._require_open_turn()
        if self.num_tokens_left < 1:
            self._is_exhausted = True
            raise RolloutExhaustedError("no token or no time is left; see num_tokens_left before asking on")

    def _require_silent(self) -> None:
        if self._is_answering:
            raise EnvironmentMisuseError("the policy is answering; await that answer first")

    def _require_open_turn(self) -> None:
        if self._has_policy_ended and not self._pending.tokens:
            raise EnvironmentMisuseError("the policy has ended its turn; add a message before asking on")
