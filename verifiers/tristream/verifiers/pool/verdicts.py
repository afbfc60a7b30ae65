"""A child's words, checked: what it sends is taken for the words of a stranger."""

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NoReturn

from tristream.verifiers.definition import Limits, Need, Scope
from tristream.verifiers.pool.channel import NonsenseError
from tristream.verifiers.pool.coercion import MAX_JUDGEMENT_BYTES
from tristream.verifiers.pool.tasks import Judgement, Verdict, VerifierFacts
from tristream.verifiers.pool.texts import clean
from tristream.wire.events import Status

_MAX_KEPT_CHARACTERS = 4096
_STATUSES = {str(status): status for status in Status}


def read_verdict(content: bytes, facts: VerifierFacts, num_rollouts: int) -> Verdict:
    """The verdict of a frame.

    Raises:
        NonsenseError: it is none, or not one of this verifier on so many rollouts.
    """
    try:
        status_word, detail, is_truth_fine, cpu_seconds, wall_seconds, packed = _parse(content)
        status = _STATUSES[status_word]
        if len(packed) != (num_rollouts if status is Status.SCORED else 0):
            raise ValueError("it has judgements on other rollouts")
        return Verdict(
            status=status,
            detail=clean(_text(detail)),
            judgements=tuple(_judgement(judgement, facts) for judgement in packed),
            is_truth_fine=is_truth_fine is True,
            cpu_seconds=_duration(cpu_seconds),
            wall_seconds=_duration(wall_seconds),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise NonsenseError(f"it sent no verdict: {type(error).__name__}: {clean(str(error))[:200]}") from None


def read_facts(content: bytes) -> list[VerifierFacts]:
    """What a child says of its verifiers.

    Raises:
        NonsenseError: it is nonsense.
    """
    try:
        return [_facts(packed) for packed in _parse(content)["facts"]]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise NonsenseError(f"it sent no facts: {type(error).__name__}: {clean(str(error))[:200]}") from None


def read_refusal(content: bytes) -> Mapping[str, str]:
    """Why a child cannot load its verifiers: ``what``, ``where`` and ``remedy``, or ``failure``; empty if it can."""
    try:
        told = _parse(content)
        return {key: clean(_text(told[key])) for key in ("what", "where", "remedy", "failure") if key in told}
    except (ValueError, TypeError, RecursionError):
        return {"failure": "it sent nonsense"}


def _facts(packed: list[Any]) -> VerifierFacts:
    name, version, components, scope, is_async, needs, (cpu_seconds, wall_seconds, memory_mib) = packed
    return VerifierFacts(
        name=_text(name),
        version=_text(version),
        components={_text(key): (_number(low), _number(high)) for key, (low, high) in components.items()},
        scope=Scope(scope),
        is_async=is_async is True,
        needs=frozenset(Need(need) for need in needs),
        limits=Limits(
            cpu_seconds=_duration(cpu_seconds),
            wall_seconds=_duration(wall_seconds),
            memory_mib=int(_duration(memory_mib)),
        ),
    )


def _judgement(packed: list[Any], facts: VerifierFacts) -> Judgement:
    components, abstained, metrics, params_json = packed
    ranges = facts.components
    names = [*components, *abstained]
    if len(names) != len(ranges) or set(names) != set(ranges):
        raise ValueError("it speaks of other components than are declared")
    for name, value in components.items():
        low, high = ranges[name]
        if not low <= _number(value) <= high:
            raise ValueError(f"component '{name}' is out of its range")
    _check_object(params_json) if len(params_json) <= _MAX_KEPT_CHARACTERS else _check_object.__wrapped__(params_json)
    return Judgement(
        components={name: float(value) for name, value in components.items()},
        abstained=tuple(abstained),
        metrics={_text(name): _number(value) for name, value in metrics.items()},
        params_json=params_json,
    )


@lru_cache(maxsize=1024)
def _check_object(text: str) -> None:
    """Check that a text is a JSON object that a record can hold; most judgements repeat a few."""
    if len(_text(text)) > MAX_JUDGEMENT_BYTES or not isinstance(_parse(text), dict):
        raise ValueError("its parameters are no JSON object, or too long")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _parse(content: bytes | str) -> Any:  # noqa: ANN401 - any JSON
    return _DECODER.decode(content if isinstance(content, str) else content.decode())


def _number(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(f"{value!r:.80} is no finite number")
    return float(value)  # type: ignore[arg-type]


def _duration(value: object) -> float:
    return max(0.0, _number(value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    if not value.isascii():
        value.encode()
    return value
