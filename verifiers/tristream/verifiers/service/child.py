"""What runs in a child process: judge tasks from a pipe, one verdict for each.

The parent kills a child that is late. Should the parent be dead too, a timer of the kernel ends the
child, and a closed pipe ends an idle one: no child outlives its parent for long.
"""

import json
import math
import signal
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from tristream.verifiers.service.params import parse_params
from tristream.verifiers.verifier import ScoringRequest, Unscorable, Verifier
from tristream.wire.events import Status

GRACE_SECONDS = 1.0
"""Past the deadline by this much, a child ends itself."""
MAX_DETAIL_CHARACTERS = 1000

Packed = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One answer for one verifier, as plain values: they cross a pipe cheaply, and always can."""

    verifier: str
    """Its key in the pool."""
    text: str
    prompt_text: str
    ground_truth: str
    params_json: str
    """The parameters as the term has them; whether they are a JSON object is found out by the child."""
    step: int
    total_steps: int

    def pack(self) -> Packed:
        """As a tuple."""
        return (
            self.verifier,
            self.text,
            self.prompt_text,
            self.ground_truth,
            self.params_json,
            self.step,
            self.total_steps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a task; only SCORED has components."""

    status: Status
    detail: str = ""
    components: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    params_json: str = "{}"
    """Parameters as they were resolved, a JSON object."""
    score_seconds: float = 0.0

    def pack(self) -> Packed:
        """As a tuple."""
        return self.status.value, self.detail, self.components, self.metrics, self.params_json, self.score_seconds

    @classmethod
    def unpack(cls, packed: Packed) -> "Verdict":
        """The verdict of a tuple."""
        status, detail, components, metrics, params_json, score_seconds = packed
        return cls(
            status=Status(status),
            detail=detail,
            components=components,
            metrics=metrics,
            params_json=params_json,
            score_seconds=score_seconds,
        )


def run_child(connection: Connection, verifiers: Mapping[str, type[Verifier]], deadline_seconds: float) -> None:
    """Judge lists of tasks until the pipe closes; the first message out says that the child is warm."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent stops us in order
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even inside C code
    made = {name: verifier() for name, verifier in verifiers.items()}
    try:
        connection.send(None)
        while True:
            for packed in connection.recv():
                signal.setitimer(signal.ITIMER_REAL, deadline_seconds + GRACE_SECONDS)
                verdict = judge(made[packed[0]], packed)
                signal.setitimer(signal.ITIMER_REAL, 0)
                connection.send(verdict.pack())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def judge(verifier: Verifier, packed: Packed) -> Verdict:
    """Score a task; whatever goes wrong becomes a status, never a number."""
    start = time.perf_counter()
    try:
        score = verifier.score(_request_of(packed))
        components = _numbers("component", score.components)
        metrics = _numbers("metric", score.metrics)
        params_json = json.dumps(dict(score.params_used), sort_keys=True, allow_nan=False)
    except Unscorable as error:
        return Verdict(
            status=Status.UNSCORABLE, detail=clean(_text_of(error)), score_seconds=time.perf_counter() - start
        )
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
        return Verdict(
            status=Status.ERROR,
            detail=clean(f"{type(error).__name__}: {_text_of(error)[:300]} ({place})"),
            score_seconds=time.perf_counter() - start,
        )
    return Verdict(
        status=Status.SCORED,
        components=components,
        metrics=metrics,
        params_json=params_json,
        score_seconds=time.perf_counter() - start,
    )


def _request_of(packed: Packed) -> ScoringRequest:
    _verifier, text, prompt_text, ground_truth, params_json, step, total_steps = packed
    try:
        params = parse_params(params_json)
    except ValueError as error:
        raise Unscorable(f"the parameters are unusable: {error}") from None
    return ScoringRequest(
        text=text, prompt_text=prompt_text, ground_truth=ground_truth, params=params, step=step, total_steps=total_steps
    )


def clean(text: str) -> str:
    """Text for a record: lone surrogates replaced, and not longer than people read."""
    return text[:MAX_DETAIL_CHARACTERS].encode(errors="replace").decode()


def _numbers(kind: str, values: Mapping[str, float]) -> dict[str, float]:
    """Plain numbers by plain names; those that would poison means are refused, as nothing later tells whence they came.

    Raises:
        ValueError: a number is not finite.
        TypeError: a value is no number, or a name is no text that a record can hold.
    """
    numbers = {}
    for name, value in values.items():
        if not isinstance(name, str) or clean(name) != name:
            raise TypeError(f"a {kind} is called {name!r:.80}")
        numbers[str(name)] = float(value)
        if not math.isfinite(value):
            raise ValueError(f"{kind} '{name}' is {value}")
    return numbers


def _text_of(error: BaseException) -> str:
    """The text of an error, even of one that cannot give it."""
    try:
        return str(error)
    except Exception:
        return "an error without a text"
