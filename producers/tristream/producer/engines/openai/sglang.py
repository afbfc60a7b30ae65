"""SGLang's HTTP interface, as it is documented: tokens from ``/generate``, weights by ``/update_weights_from_disk``.

It ends what runs when it takes new weights, so requests are ended here first, and go on from their tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tristream.producer.engines.openai.http_client import ServerHttp
from tristream.producer.engines.openai.wire import (
    Chunk,
    RequestRefusedError,
    ServerFailedError,
    TokensWanted,
    WeightsRefusedError,
    as_logprobs,
)

EXCLUDED_BIAS = -1e9


@dataclass(frozen=True, slots=True)
class SglangWire:
    """``/generate`` with token ids."""

    path: str = "/generate"
    takes_images: bool = False

    def body(self, wanted: TokensWanted, model: str) -> dict[str, Any]:
        """A request as JSON."""
        sampling = wanted.sampling
        params: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "max_new_tokens": sampling.max_tokens,
            "sampling_seed": sampling.seed % 2**31,
            "stop": list(sampling.stop),
            "stop_token_ids": list(sampling.stop_token_ids),
            "no_stop_trim": True,
        }
        if wanted.excluded:
            params["logit_bias"] = {str(token): EXCLUDED_BIAS for token in wanted.excluded}
        return {
            "input_ids": list(wanted.prompt),
            "sampling_params": params,
            "return_logprob": True,
            "top_logprobs_num": wanted.num_top_logprobs,
            "stream": True,
        }

    def read(self, event: Mapping[str, Any], num_before: int) -> Chunk:
        """One event of the stream; log-probabilities are those of all tokens so far, or of the new ones."""
        meta = event["meta_info"]
        entries = meta.get("output_token_logprobs") or []
        num_new = int(meta["completion_tokens"]) - num_before
        if num_new < 0 or num_new > len(entries):
            raise ValueError(f"{meta['completion_tokens']} tokens, {len(entries)} log-probabilities")
        new = entries[len(entries) - num_new :]
        reason = meta.get("finish_reason")
        top = meta.get("output_top_logprobs") or ()
        return Chunk(
            tokens=[int(entry[1]) for entry in new],
            logprobs=as_logprobs([entry[0] for entry in new]),
            num_cached_prompt_tokens=int(meta.get("cached_tokens") or 0),
            finish_reason=reason and str(reason["type"]),
            top_logprobs=sorted((entry[0] for entry in top[0]), reverse=True) if top else (),
        )


@dataclass(slots=True)
class SglangWeights:
    """Weights of one server."""

    http: ServerHttp
    keeps: bool = False

    async def pause(self) -> None:
        """Nothing: what ran was ended, and nothing is asked of it meanwhile."""

    async def load(self, path: str, version: int) -> None:
        """Load a folder of weights, and forget all that was computed with others.

        Raises:
            ServerError: they are not loaded, or only in part.
        """
        body = {"model_path": path, "weight_version": str(version), "abort_all_requests": True}
        try:
            answer = await self.http.post("/update_weights_from_disk", body, is_long=True)
        except (RequestRefusedError, ServerFailedError) as error:
            raise WeightsRefusedError(f"those in {path}: {error}") from None
        if answer.get("success") is not True:
            raise WeightsRefusedError(f"those in {path}: {answer.get('message')}")
        await self.http.post("/flush_cache")

    async def resume(self) -> None:
        """Nothing: it was not paused."""

    async def label(self) -> str:
        """What the server calls its weights.

        Raises:
            ServerError: it does not say.
        """
        return str((await self.http.get("/get_model_info")).get("weight_version"))
