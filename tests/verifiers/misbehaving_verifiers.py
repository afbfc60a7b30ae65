"""Verifiers that do what verifiers must not do; children import them by name."""

import os
import sys
import time
from collections.abc import Callable
from typing import ClassVar, NoReturn

from tristream.verifiers.verifier import Score, ScoringRequest, Unscorable, Verifier


def hang() -> NoReturn:
    while True:
        pass


def crash() -> NoReturn:
    os._exit(7)


def leave() -> NoReturn:
    sys.exit(3)


def fail() -> NoReturn:
    raise RuntimeError("no such luck")


def abstain() -> NoReturn:
    raise Unscorable("the truth is bad")


class MuteError(Exception):
    """Cannot even give its text."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def fall_silent() -> NoReturn:
    raise MuteError


def fail_in_surrogates() -> NoReturn:
    raise RuntimeError("a \ud800 surrogate")


SCORES: dict[str, Score] = {
    "nan": Score(components={"accuracy": float("nan")}),
    "infinite metric": Score(components={"accuracy": 1.0}, metrics={"size": float("inf")}),
    "text as number": Score(components={"accuracy": "much"}),  # type: ignore[dict-item]
    "surrogate name": Score(components={"accuracy \ud800": 1.0}),
    "unwritable params": Score(components={"accuracy": 1.0}, params_used={"lambda": len}),
    "nan params": Score(components={"accuracy": 1.0}, params_used={"limit": float("nan")}),
    "huge": Score(components={"accuracy": 1.0}, params_used={"notes": "x" * 9 * 2**20}),
}

ACTIONS: dict[str, Callable[[], NoReturn]] = {
    "hang": hang,
    "crash": crash,
    "exit": leave,
    "raise": fail,
    "unscorable": abstain,
    "mute": fall_silent,
    "surrogate detail": fail_in_surrogates,
}


class MisbehavingVerifier:
    """Does what the answer says."""

    name: ClassVar[str] = "misbehaving"
    version: ClassVar[str] = "7"

    def score(self, request: ScoringRequest) -> Score:
        text = request.text
        if text in ACTIONS:
            ACTIONS[text]()
        if text == "recurse":
            return self.score(request)
        if text in SCORES:
            return SCORES[text]
        if text.startswith("sleep "):
            time.sleep(float(text.removeprefix("sleep ")))
        if text == "pid":
            return Score(components={"accuracy": 1.0}, metrics={"pid": float(os.getpid())})
        return Score(components={"accuracy": float(text == request.ground_truth)}, params_used={"step": request.step})


class UnstartableVerifier(MisbehavingVerifier):
    """Cannot even be made."""

    name: ClassVar[str] = "unstartable"

    def __init__(self) -> None:
        raise RuntimeError("no model file")


MISBEHAVING: dict[str, type[Verifier]] = {MisbehavingVerifier.name: MisbehavingVerifier}
