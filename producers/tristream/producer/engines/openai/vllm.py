"""vLLM's HTTP interface: tokens from ``/inference/v1/generate`` or ``/v1/completions``, weights over its RL endpoints.

    /pause?mode=keep -> reload_weights -> /update_weight_version -> /reset_prefix_cache -> /resume

What runs is frozen meanwhile and goes on afterwards, its cache computed anew, so that no token is sampled from keys and
values of other weights.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tristream.producer.engines.openai.http_client import ServerHttp
from tristream.producer.engines.openai.wire import (
    Chunk,
    RequestRefusedError,
    ServerFailedError,
    TokensWanted,
    VersionLabels,
    WeightsRefusedError,
    as_logprobs,
)
from tristream.runtime.errors import UserError

DEV_MODE_REMEDY = "start the server with VLLM_SERVER_DEV_MODE=1 in its environment"
EXCLUDED_BIAS = -100.0
"""Added to logits of excluded tokens, the most that is allowed: it leaves them e^-100 of their probability."""


def _sampling_fields(wanted: TokensWanted) -> dict[str, Any]:
    # All are named: what is left out has the defaults of the checkpoint's generation_config.json at the server.
    sampling = wanted.sampling
    fields: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "include_stop_str_in_output": True,
        "logprobs": wanted.num_top_logprobs,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    if wanted.excluded:
        fields["logit_bias"] = {str(token): EXCLUDED_BIAS for token in wanted.excluded}
    return fields


def _num_cached(event: Mapping[str, Any]) -> int:
    details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
    return int(details.get("cached_tokens") or 0)


@dataclass(frozen=True, slots=True)
class CompletionsWire:
    """``/v1/completions`` with token ids."""

    path: str = "/v1/completions"
    takes_images: bool = False

    def body(self, wanted: TokensWanted, model: str) -> dict[str, Any]:
        """A request as JSON."""
        return {
            "model": model,
            "prompt": list(wanted.prompt),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # many tokens are no text, and would be one name in a table
            "stream": True,
            "stream_options": {"include_usage": True},
            **_sampling_fields(wanted),
        }

    def read(self, event: Mapping[str, Any], num_before: int) -> Chunk:
        """One event of the stream."""
        cached = _num_cached(event)
        if not event["choices"]:
            return Chunk(num_cached_prompt_tokens=cached)
        choice = event["choices"][0]
        if "token_ids" not in choice:
            raise ValueError("it has no token ids, which vLLM returns from version 0.11 on")
        logprobs = choice.get("logprobs") or {}
        top = logprobs.get("top_logprobs") or ()
        return Chunk(
            tokens=choice["token_ids"],
            logprobs=as_logprobs(logprobs.get("token_logprobs") or ()),
            prompt_tokens=choice.get("prompt_token_ids"),
            num_cached_prompt_tokens=cached,
            finish_reason=choice.get("finish_reason"),
            top_logprobs=sorted(top[0].values(), reverse=True) if top else (),
        )


@dataclass(frozen=True, slots=True)
class GenerateWire:
    """``/inference/v1/generate``: it says which weights sampled which tokens, and takes images."""

    path: str = "/inference/v1/generate"
    takes_images: bool = True

    def body(self, wanted: TokensWanted, model: str) -> dict[str, Any]:
        """A request as JSON."""
        body: dict[str, Any] = {
            "model": model,
            "token_ids": list(wanted.prompt),
            "return_token_ids": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "sampling_params": _sampling_fields(wanted),
        }
        if wanted.images:
            body["content_parts"] = [{"type": "image_url", "url": _data_url(image)} for image in wanted.images]
        return body

    def read(self, event: Mapping[str, Any], num_before: int) -> Chunk:
        """One event of the stream."""
        cached = _num_cached(event)
        if not event["choices"]:
            return Chunk(num_cached_prompt_tokens=cached)
        choice = event["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or ()
        labels = choice.get("weight_versions")
        top = content[0]["top_logprobs"] if content else ()
        return Chunk(
            tokens=choice.get("token_ids") or (),
            logprobs=as_logprobs([entry["logprob"] for entry in content]),
            prompt_tokens=event.get("prompt_token_ids"),
            num_cached_prompt_tokens=cached,
            finish_reason=choice.get("finish_reason"),
            version_labels=labels and tuple(_label(span) for span in labels),
            top_logprobs=sorted((entry["logprob"] for entry in top), reverse=True),
        )


def _label(span: Mapping[str, Any]) -> VersionLabels:
    return VersionLabels(label=str(span["version"]), start=int(span["start"]), end=int(span["end"]))


def _data_url(image: bytes) -> str:
    # The server looks at the bytes, not at the type that is named here.
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


@dataclass(slots=True)
class VllmWeights:
    """Weights of one server; ``keeps`` is whether what runs goes on after an update."""

    http: ServerHttp
    has_vision: bool
    keeps: bool = True
    is_extended: bool = False
    """Whether its workers have the methods of ``tristream.producer.engines.vllm.worker``."""

    async def extend(self) -> None:
        """Let its workers do what they can do for a policy, if they were started so."""
        try:
            answer = await self.http.post("/collective_rpc", {"method": "keep_full_logprobs"})
        except (RequestRefusedError, ServerFailedError):
            return
        results = answer.get("results")
        self.is_extended = isinstance(results, list) and bool(results) and all(each == "True" for each in results)

    async def pause(self) -> None:
        """Freeze what runs, or end it at a server that does not keep; one that turns out to be such is not paused.

        Raises:
            ServerError: it is not paused.
            UserError: the server takes no new weights.
        """
        if self.keeps:
            try:
                await self.http.post("/pause?mode=keep")
            except RequestRefusedError as error:
                if error.status == 404:
                    raise _no_endpoint(self.http, "/pause") from None
                self.keeps = False
        else:
            await self.http.post("/pause?mode=abort")

    async def load(self, path: str, version: int) -> None:
        """Load a folder of weights, and forget all that was computed with others.

        Raises:
            ServerError: they are not loaded, or only in part.
            UserError: the server takes no new weights.
        """
        body: dict[str, Any] = {"method": "reload_weights", "kwargs": {"weights_path": path}}
        if self.is_extended:
            body = {"method": "take_weights", "args": [path]}
        try:
            await self.http.post("/collective_rpc", body, is_long=True)
        except (RequestRefusedError, ServerFailedError) as error:
            if isinstance(error, RequestRefusedError) and error.status == 404:
                raise _no_endpoint(self.http, "/collective_rpc") from None
            raise WeightsRefusedError(f"those in {path}: {error}") from None
        await self.http.post("/update_weight_version", {"new_version": str(version)})
        answer = await self.http.post("/reset_prefix_cache?reset_running_requests=true")
        if answer.get("success") is not True:
            raise ServerFailedError("its prefix cache could not be reset")
        if self.has_vision:
            await self.http.post("/reset_mm_cache")
            await self.http.post("/reset_encoder_cache")

    async def resume(self) -> None:
        """Let requests go on.

        Raises:
            ServerError: it may still be paused.
        """
        await self.http.post("/resume")

    async def label(self) -> str:
        """What the server calls its weights.

        Raises:
            ServerError: it does not say.
        """
        return str((await self.http.get("/weight_info")).get("weight_version"))


def _no_endpoint(http: ServerHttp, path: str) -> UserError:
    return UserError(f"{http.url} has no {path}", where="[rollout.engine] urls", remedy=DEV_MODE_REMEDY)
