"""What a server is: how it is asked for tokens, how it takes weights, and what its log-probabilities are."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tristream.producer.engines.openai.http_client import ServerHttp
from tristream.producer.engines.openai.sglang import SglangWeights, SglangWire
from tristream.producer.engines.openai.vllm import CompletionsWire, GenerateWire, VllmWeights
from tristream.producer.engines.openai.wire import (
    BadAnswerError,
    RequestRefusedError,
    TokensWanted,
    Wire,
    read_event,
)
from tristream.runtime.errors import UserError
from tristream.wire.events import Sampling

PROBE_TOKEN = 1
PROBE_TEMPERATURE = 0.5
NUM_TOP_LOGPROBS = 5
GAP_RANK = 4
"""Compared with the first: of five that are asked, one may be the sampled token's, whatever its rank."""
NOT_AVAILABLE = (403, 404, 405)
"""How servers say that they have no such endpoint."""
WORKER_EXTENSION = "tristream.producer.engines.vllm.worker.PolicyWorker"
URLS = "[rollout.engine] urls"


class LogprobsMode(StrEnum):
    """What a server's log-probabilities are."""

    RAW = "raw_logprobs"
    """``log_softmax(logits)``, whatever the temperature."""
    PROCESSED = "processed_logprobs"
    """Of the tokens that may be sampled: at the temperature, without what top_p, top_k and min_p leave out."""
    FULL = "full"
    """``log_softmax(logits / temperature)``, whatever is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKind:
    """What a server is."""

    model: str
    wire: Wire
    weights: VllmWeights | SglangWeights
    logprobs_mode: LogprobsMode
    max_model_tokens: int | None
    """Most tokens of a prompt and its answer, if it says so."""


async def probe(http: ServerHttp, *, model: str, excluded: Sequence[int], has_vision: bool) -> ServerKind:
    """Ask a server what it is, by three requests of one token.

    Args:
        http: the server.
        model: the name that it should serve the model under; empty: its first.
        excluded: tokens that are never sampled.
        has_vision: whether the model takes images.

    Raises:
        ServerError: it does not answer as it should, which may pass.
        UserError: it is not set up as it must be.
    """
    name, owner, max_model_tokens = await _find_model(http, model)
    wires: tuple[Wire, ...] = (GenerateWire(), CompletionsWire())
    if owner == "sglang":
        weights: VllmWeights | SglangWeights = SglangWeights(http)
        wires, is_full = (SglangWire(),), True
    else:
        weights = VllmWeights(http, has_vision)
        await weights.extend()
        is_full = weights.is_extended
    wire, gap = await _find_wire(http, wires, name)
    warm = await _logprob_gap(http, wire, name, PROBE_TEMPERATURE)
    # At temperature 0.5 what is scaled has twice the gap.
    mode = LogprobsMode.FULL if is_full else LogprobsMode.PROCESSED
    if warm < 1.5 * gap:
        mode = LogprobsMode.RAW
    if mode is LogprobsMode.RAW and excluded:
        raise UserError(
            f"{http.url} sends log-probabilities in which tokens that stand for images have a share, and the learner "
            "takes them as impossible",
            where=URLS,
            remedy="start the server with --logprobs-mode processed_logprobs",
        )
    return ServerKind(model=name, wire=wire, weights=weights, logprobs_mode=mode, max_model_tokens=max_model_tokens)


def why_refused(mode: LogprobsMode, sampling: Sampling) -> str | None:
    """Why a server's log-probabilities are not those that the learner needs of such a sampling, or None.

    What is needed is ``log_softmax(logits / temperature)``, or ``log_softmax(logits)`` of greedy answers.
    """
    if mode is LogprobsMode.RAW and sampling.temperature not in (0, 1):
        return (
            f"the servers' log-probabilities are those of temperature 1, and {sampling.temperature:g} is sampled: "
            "start them with --logprobs-mode processed_logprobs"
        )
    if mode is LogprobsMode.PROCESSED and sampling.is_truncated:
        return (
            "the servers' log-probabilities are those of what top_p, top_k and min_p leave, and the learner needs "
            "those of all tokens: set rollout.top_p = 1, top_k = 0 and min_p = 0, or start the servers with "
            f"--worker-extension-cls {WORKER_EXTENSION}"
        )
    return None


async def _find_model(http: ServerHttp, model: str) -> tuple[str, str, int | None]:
    """Name, owner and most tokens of the model."""
    try:
        answer = await http.get("/v1/models")
    except RequestRefusedError as error:
        if error.status in (401, 403):
            raise UserError(
                f"{http.url} asks for another key ({error})",
                where="[rollout.engine] api_key_variable",
                remedy="name the environment variable of the producer that holds the key",
            ) from None
        raise UserError(f"{http.url}: {error}", where=URLS, remedy="give vLLM or SGLang servers") from None
    try:
        served = {str(card["id"]): card for card in answer["data"]}
        card = served[model or next(iter(served))]
        return str(card["id"]), str(card.get("owned_by")), card.get("max_model_len")
    except StopIteration:
        raise BadAnswerError("/v1/models names no model") from None
    except KeyError as error:
        if model and error.args == (model,):
            raise UserError(
                f"{http.url} serves {', '.join(served)}, not '{model}'",
                where="[rollout.engine] model",
                remedy="name one that it serves, or none",
            ) from None
        raise BadAnswerError(f"/v1/models cannot be read: {str(answer)[:100]}") from None
    except (TypeError, AttributeError):
        raise BadAnswerError(f"/v1/models cannot be read: {str(answer)[:100]}") from None


async def _find_wire(http: ServerHttp, wires: Sequence[Wire], model: str) -> tuple[Wire, float]:
    """The first wire that a server has, and the gap of log-probabilities at temperature 1 there."""
    reasons = []
    for wire in wires:
        try:
            return wire, await _logprob_gap(http, wire, model, 1.0)
        except RequestRefusedError as error:
            if error.status not in NOT_AVAILABLE:
                raise UserError(f"{http.url}{wire.path}: {error}", where=URLS, remedy="look at the server") from None
            reasons.append(str(error))
    raise UserError(
        f"{http.url} takes no token ids ({'; '.join(reasons)})", where=URLS, remedy="give vLLM or SGLang servers"
    )


async def _logprob_gap(http: ServerHttp, wire: Wire, model: str, temperature: float) -> float:
    """How much less likely the fourth most likely token is than the first, after one that is always the same."""
    sampling = Sampling(temperature=temperature, top_p=1.0, max_tokens=1, seed=0)
    wanted = TokensWanted(prompt=(PROBE_TOKEN,), sampling=sampling, num_top_logprobs=NUM_TOP_LOGPROBS)
    top: Sequence[float] = ()
    async for data in http.stream(wire.path, wire.body(wanted, model)):
        top = top or read_event(wire, data, 0).top_logprobs
    if len(top) < NUM_TOP_LOGPROBS:
        raise BadAnswerError(f"{wire.path} sent {len(top)} log-probabilities of the {NUM_TOP_LOGPROBS} that were asked")
    return top[0] - top[GAP_RANK - 1]
