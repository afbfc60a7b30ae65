"""From what a verifier returns to plain values: numbers, names and JSON that a record can hold."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from tristream.verifiers.contract import Score
from tristream.verifiers.definition import Range, Scope, VerifierDefinition

ROUNDING_ERROR = 1e-9
"""A value that is outside its range by no more is taken for the end of the range."""
MAX_JUDGEMENT_BYTES = 256 * 1024
"""Longest JSON of one judgement, names of metrics and parameters included."""

PlainJudgement = tuple[dict[str, float], list[str], dict[str, float], str]
"""Components, abstained, metrics, ``params_json``."""


def plain_judgements(
    returned: object, definition: VerifierDefinition, keywords: Mapping[str, Any], num_rollouts: int
) -> list[PlainJudgement]:
    """What a verifier returned for its rollouts.

    Raises:
        BaseException: it is not what a verifier may return, or its own code fails when it is looked at.
    """
    if definition.scope is Scope.ROLLOUT:
        return [_plain_judgement(returned, definition.components, keywords)]
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes | Mapping):
        raise TypeError(f"a verifier of a group returns a sequence, one value a rollout, not {_kind(returned)}")
    values = list(returned)
    if len(values) != num_rollouts:
        raise ValueError(f"it returned {len(values)} values for {num_rollouts} rollouts")
    return [_plain_judgement(value, definition.components, keywords) for value in values]


def all_abstain(definition: VerifierDefinition, keywords: Mapping[str, Any], num_rollouts: int) -> list[PlainJudgement]:
    """What ``Abstain`` means."""
    params_json = plain_json(keywords)
    return [({}, sorted(definition.components), {}, params_json) for _ in range(num_rollouts)]


def _plain_judgement(returned: object, ranges: Mapping[str, Range], keywords: Mapping[str, Any]) -> PlainJudgement:
    score = _as_score(returned, ranges)
    given = dict(score.components)
    undeclared = [name for name in given if name not in ranges]
    if undeclared:
        raise ValueError(f"component {undeclared[0]!r:.80} is not declared; declared are {', '.join(ranges)}")
    missing = [name for name in ranges if name not in given]
    if missing:
        raise ValueError(f"component '{missing[0]}' is missing; a component of value None abstains")
    components = {name: _in_range(name, given[name], ranges[name]) for name in ranges if given[name] is not None}
    abstained = [name for name in ranges if given[name] is None]
    metrics = {_plain_name(name): _number("metric", name, value) for name, value in dict(score.metrics).items()}
    params_json = plain_json({**keywords, **score.params_used} if score.params_used else keywords)
    num_bytes = _num_bytes(params_json) + sum(_num_bytes(name) + 24 for name in metrics)
    if num_bytes > MAX_JUDGEMENT_BYTES:
        limit_kib = MAX_JUDGEMENT_BYTES // 1024
        raise ValueError(f"its metrics and parameters take {num_bytes // 1024} KiB, more than {limit_kib} KiB")
    return components, abstained, metrics, params_json


def _as_score(returned: object, ranges: Mapping[str, Range]) -> Score:
    if isinstance(returned, Score):
        return returned
    if isinstance(returned, Mapping):
        return Score(components=returned)
    if len(ranges) != 1:
        raise TypeError(f"it returned {_kind(returned)}; with {len(ranges)} components, return values by their names")
    (name,) = ranges
    return Score(components={name: returned})  # type: ignore[dict-item]  # whether it is a number is found out later


def _in_range(name: str, value: object, limits: Range) -> float:
    number = _number("component", name, value)
    low, high = limits
    if not low - ROUNDING_ERROR <= number <= high + ROUNDING_ERROR:
        raise ValueError(f"component '{name}' is {number:g}, outside its range {low:g}..{high:g}")
    return min(max(number, low), high)


def _number(kind: str, name: object, value: Any) -> float:  # noqa: ANN401 - it is whatever a verifier returns
    """A plain number, of any kind of number, such as numpy's.

    Raises:
        ValueError: it is not finite: that would poison means, and nothing later tells whence it came.
        TypeError: it is no number.
    """
    if type(value) is not float:
        if isinstance(value, str | bytes | bytearray):
            raise TypeError(f"{kind} {name!r:.80} is a text: {value!r:.80}")
        try:
            value = float(value)
        except TypeError:
            raise TypeError(f"{kind} {name!r:.80} is {_kind(value)}, no number") from None
    if not math.isfinite(value):
        raise ValueError(f"{kind} {name!r:.80} is {value}")
    return float(value)


def _plain_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a metric is called {name!r:.80}")
    return str.encode(name, errors="replace").decode()  # plain even if it is of a class of its own


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def plain_json(values: Mapping[str, Any]) -> str:
    """Parameters as a JSON object; sets, numpy's values, dataclasses and the like become lists, numbers and objects.

    Raises:
        TypeError, ValueError, RecursionError: something in it is no JSON value, or NaN, or nested too deep.
    """
    if not values:
        return "{}"
    text = _ENCODER.encode(dict(values))
    return text if text.isascii() else text.encode(errors="replace").decode()


def _jsonable(value: Any) -> Any:  # noqa: ANN401 - called by json with whatever it does not know
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    to_list = getattr(value, "tolist", None)  # arrays and scalars of numpy and torch
    return to_list() if callable(to_list) else to_jsonable_python(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, default=_jsonable)


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'a sequence' if isinstance(value, Sequence) and not isinstance(value, str) else 'a value'} of kind {name}"
