"""A server that speaks vLLM's protocol, well or badly: ``python hostile_server.py PORT [JSON]``.

Its model is a hash: the next token follows from all tokens before, whatever asks for it, so that an answer that was
broken off and went on elsewhere must be the same as a whole one. Faults are told by ``POST /faults`` and used up one a
request, or come always; ``GET /journal`` says what was called.
"""

import asyncio
import json
import sys
import zlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

VOCABULARY = 200
FIRST_TOKEN = 10
CONTROLS = (
    "/pause",
    "/resume",
    "/collective_rpc",
    "/update_weight_version",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
)
PROBE_LOGITS = [5.0, 4.0, 3.0, 2.0, 1.0]


def next_token(tokens: list[int]) -> tuple[int, float]:
    """The token after others, and its log-probability."""
    digest = zlib.crc32(json.dumps(tokens).encode())
    return FIRST_TOKEN + digest % (VOCABULARY - FIRST_TOKEN), -(1 + digest % 997) / 100


def whole_answer(prompt: list[int], num_tokens: int) -> tuple[list[int], list[float]]:
    """What the model answers."""
    tokens: list[int] = []
    logprobs: list[float] = []
    for _ in range(num_tokens):
        token, logprob = next_token([*prompt, *tokens])
        tokens.append(token)
        logprobs.append(logprob)
    return tokens, logprobs


@dataclass
class Settings:
    """What the server is."""

    scale_out: bool = True
    dev_mode: bool = True
    can_keep: bool = True
    processed: bool = True
    key: str = ""
    owner: str = "vllm"
    max_model_len: int = 4096
    token_seconds: float = 0.0
    extended: bool = False
    names_versions: bool = True


@dataclass
class State:
    """What it is doing."""

    settings: Settings
    faults: deque[str] = field(default_factory=deque)
    always: str = ""
    journal: list[Any] = field(default_factory=list)
    label: str = "default"
    running: asyncio.Event = field(default_factory=asyncio.Event)
    num_running: int = 0
    most_running: int = 0
    aborting: bool = False


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STATE = web.AppKey("state", State)


@web.middleware
async def journal(request: web.Request, handler: Handler) -> web.StreamResponse:
    state = request.app[STATE]
    body = await request.json() if request.can_read_body else {}
    request["body"] = body
    if request.path in ("/faults", "/journal"):
        return await handler(request)
    state.journal.append([request.path_qs, body if "generate" not in request.path else body.get("token_ids")])
    if state.settings.key and request.headers.get("Authorization") != f"Bearer {state.settings.key}":
        return web.json_response({"error": "Unauthorized"}, status=401)
    return await handler(request)


async def tell_faults(request: web.Request) -> web.Response:
    state = request.app[STATE]
    state.faults = deque(request["body"].get("next", ()))
    state.always = request["body"].get("always", "")
    return web.json_response({})


async def read_journal(request: web.Request) -> web.Response:
    state = request.app[STATE]
    return web.json_response({"calls": state.journal, "most_running": state.most_running, "label": state.label})


async def models(request: web.Request) -> web.Response:
    settings = request.app[STATE].settings
    return web.json_response(
        {"data": [{"id": "hash", "owned_by": settings.owner, "max_model_len": settings.max_model_len}]}
    )


def fault_of(state: State, kind: str) -> str:
    """The fault for a call of a kind, used up."""
    if state.always.startswith(kind):
        return state.always.removeprefix(kind)
    if state.faults and state.faults[0].startswith(kind):
        return state.faults.popleft().removeprefix(kind)
    return ""


async def control(request: web.Request) -> web.Response:
    state, path = request.app[STATE], request.path
    fault = fault_of(state, f"{path}:")
    if fault.isdecimal():
        return web.json_response({"error": {"message": f"told to fail at {path}"}}, status=int(fault))
    if not state.settings.dev_mode:
        return web.json_response({"detail": "Not Found"}, status=404)
    if request["body"].get("method") == "keep_full_logprobs":
        return web.json_response({"results": [str(state.settings.extended)]})
    if path == "/pause":
        if request.query["mode"] == "keep" and not state.settings.can_keep:
            return web.json_response({"detail": "no such mode"}, status=400)
        state.aborting = request.query["mode"] == "abort"
        state.running.clear()
    elif path == "/resume":
        state.aborting = False
        state.running.set()
    elif path == "/update_weight_version":
        state.label = request["body"]["new_version"]
    return web.json_response({"success": fault != "unsuccessful"})


async def weight_info(request: web.Request) -> web.Response:
    return web.json_response({"weight_version": request.app[STATE].label})


async def generate(request: web.Request) -> web.StreamResponse:
    state, body = request.app[STATE], request["body"]
    if not state.settings.scale_out:
        return web.json_response({"error": {"message": "disabled"}}, status=403)
    return await answer(request, state, body["token_ids"], body["sampling_params"], is_generate=True)


async def completions(request: web.Request) -> web.StreamResponse:
    body = request["body"]
    return await answer(request, request.app[STATE], body["prompt"], body, is_generate=False)


async def answer(
    request: web.Request, state: State, prompt: list[int], sampling: dict[str, Any], *, is_generate: bool
) -> web.StreamResponse:
    is_probe = bool(sampling["logprobs"])
    fault = "" if is_probe else fault_of(state, "ask:")
    if fault.isdecimal():
        return web.json_response({"error": {"message": "told to fail", "code": int(fault)}}, status=int(fault))
    if fault == "drop_before":
        assert request.transport is not None
        request.transport.close()
        return web.Response()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    state.num_running += 1
    state.most_running = max(state.most_running, state.num_running)
    try:
        async for event in events(state, prompt, sampling, fault, is_generate=is_generate):
            if event == "drop":
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write(f"data: {event}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
    finally:
        state.num_running -= 1
    return response


async def events(
    state: State, prompt: list[int], sampling: dict[str, Any], fault: str, *, is_generate: bool
) -> AsyncIterator[str]:
    """The events of a stream; a fault named ``NAME_N`` comes after N tokens."""
    name, _, after = fault.rpartition("_")
    tokens: list[int] = []
    labels: list[list[Any]] = []
    num_tokens = sampling["max_tokens"] + (5 if fault == "too_many" else 0)
    for number in range(num_tokens):
        if after == str(number) and (broken := await broken_event(name)):
            yield broken
        if state.settings.token_seconds:
            await asyncio.sleep(state.settings.token_seconds)
        while not state.running.is_set():
            if state.aborting:
                yield event([], [], None, "abort", [], is_generate=is_generate)
                return
            await asyncio.sleep(0.005)
        if name == "abort" and number == int(after):
            yield event([], [], None, "abort", [], is_generate=is_generate)
            return
        token, logprob = next_token([*prompt, *tokens])
        tokens.append(token)
        if labels and labels[-1][0] == state.label:
            labels[-1][2] = number + 1
        else:
            labels.append([state.label, number, number + 1])
        is_last = number == num_tokens - 1 and fault != "no_reason"
        read = [*prompt, 7] if fault == "other_prompt" else prompt
        yield event(
            [token],
            [] if fault == "wrong_lengths" and number == 1 else [-9999.0 if fault == "no_number" else logprob],
            read if number == 0 else None,
            "length" if is_last else None,
            labels if is_last and state.settings.names_versions else [],
            is_generate=is_generate,
            top=probed(state, sampling),
        )
    yield json.dumps({"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 1}}})


async def broken_event(name: str) -> str:
    """What comes instead of the next event; nothing for faults that are none of an event."""
    if name == "hang":
        await asyncio.sleep(60)
    if name == "drop":
        await asyncio.sleep(0.05)  # what was sent before is read by now
        return "drop"
    broken = {"garbage": '{"choices": [{"tok', "error": '{"error": {"message": "told to fail", "code": 500}}'}
    return broken.get(name, "")


def probed(state: State, sampling: dict[str, Any]) -> list[float]:
    """Log-probabilities of the most likely tokens, if asked for; an unlikely one that is sampled takes a place."""
    if not sampling["logprobs"]:
        return []
    scale = sampling["temperature"] if state.settings.processed else 1.0
    top = [logit / scale - 9 for logit in PROBE_LOGITS]
    return [-50.0, *top[:-1]] if sampling["temperature"] == 1 else top


def event(
    tokens: list[int],
    logprobs: list[float],
    prompt: list[int] | None,
    reason: str | None,
    labels: list[list[Any]],
    *,
    is_generate: bool,
    top: list[float] | None = None,
) -> str:
    if is_generate:
        shown = [{"token_id": n, "logprob": logprob} for n, logprob in enumerate(top or ())]
        content = [
            {"token_id": token, "logprob": logprob, "top_logprobs": shown}
            for token, logprob in zip(tokens, logprobs, strict=False)
        ]
        spans = [{"version": version, "start": start, "end": end} for version, start, end in labels] or None
        choice = {"token_ids": tokens, "logprobs": {"content": content}, "finish_reason": reason}
        return json.dumps({"choices": [{**choice, "weight_versions": spans}], "prompt_token_ids": prompt})
    shown_by_name = [{f"token_id:{n}": logprob for n, logprob in enumerate(top or ())}] * len(tokens)
    return json.dumps(
        {
            "choices": [
                {
                    "token_ids": tokens,
                    "logprobs": {"token_logprobs": logprobs, "top_logprobs": shown_by_name},
                    "finish_reason": reason,
                    "prompt_token_ids": prompt,
                }
            ]
        }
    )


def make_app(settings: Settings) -> web.Application:
    app = web.Application(middlewares=[journal], client_max_size=2**26)
    app[STATE] = State(settings)
    app[STATE].running.set()
    app.router.add_post("/faults", tell_faults)
    app.router.add_get("/journal", read_journal)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/weight_info", weight_info)
    app.router.add_post("/inference/v1/generate", generate)
    app.router.add_post("/v1/completions", completions)
    for path in CONTROLS:
        app.router.add_post(path, control)
    return app


if __name__ == "__main__":
    chosen = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    web.run_app(make_app(Settings(**chosen)), host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
