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


ACTIONS: dict[str, Callable[[], NoReturn]] = {
    "hang": hang,
    "crash": crash,
    "exit": leave,
    "raise": fail,
    "unscorable": abstain,
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
        if text == "nan":
            return Score(components={"accuracy": float("nan")})
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
