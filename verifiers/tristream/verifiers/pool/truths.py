"""Truths and parameters of a term, read once for all rollouts of a group."""

import inspect
import json
import math
from collections import OrderedDict
from typing import Any

from tristream.verifiers.contract import Unscorable
from tristream.verifiers.definition import VerifierDefinition
from tristream.verifiers.pool.texts import text_of

MAX_ENTRIES = 512
"""Truths, and as many parameters, that are kept; those that were asked for least recently go."""
MAX_PARAMS_CHARACTERS = 64 * 1024
"""Longer parameters are not kept."""

_SCALARS = (str, int, float, bool, type(None))


class Truths:
    """The truths and the parameters of one verifier."""

    def __init__(self, definition: VerifierDefinition) -> None:
        self._definition = definition
        self._parse = definition.parse_truth
        self._named = _named_parameters(definition)
        self._truths: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._keywords: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def keywords(self, params_json: str) -> dict[str, Any]:
        """The keywords of a call, the caller's own.

        Raises:
            Unscorable: the parameters are no JSON object, or not those of the verifier.
        """
        kept = self._keywords.get(params_json)
        if kept is not None:
            return dict(kept)
        keywords = self._definition.check_parameters(parse_parameters(params_json))
        # What can be changed is read anew each time, so that a call that changes it changes no other.
        if len(params_json) <= MAX_PARAMS_CHARACTERS and all(type(value) in _SCALARS for value in keywords.values()):
            _keep(self._keywords, params_json, keywords)
            return dict(keywords)
        return keywords

    def truth(self, ground_truth: str, params_json: str, keywords: dict[str, Any]) -> Any:  # noqa: ANN401 - any truth
        """The truth as the verifier parses it, or the ground truth itself.

        Raises:
            Unscorable: it is unusable, as is found out once.
            BaseException: what the parser raises.
        """
        if self._parse is None:
            return ground_truth
        key = (ground_truth, params_json)
        if key in self._truths:
            self._truths.move_to_end(key)
            truth = self._truths[key]
        else:
            try:
                truth = self._parse(ground_truth, **self._chosen(keywords))
            except Unscorable as error:
                truth = _Unusable(text_of(error))
            _keep(self._truths, key, truth)
        if isinstance(truth, _Unusable):
            raise Unscorable(truth.reason)
        return truth

    def _chosen(self, keywords: dict[str, Any]) -> dict[str, Any]:
        return keywords if self._named is None else {name: keywords[name] for name in self._named if name in keywords}


class _Unusable:
    def __init__(self, reason: str) -> None:
        self.reason = reason


def parse_parameters(params_json: str) -> dict[str, Any]:
    """The parameters of a term as a dict.

    Raises:
        Unscorable: the text is not a JSON object, or nested too deep.
    """
    try:
        params = json.loads(params_json or "{}", parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise Unscorable("the parameters are unusable: nested too deep") from None
    except ValueError as error:
        raise Unscorable(f"the parameters are unusable: {error}") from None
    if not isinstance(params, dict):
        raise Unscorable(f"the parameters are unusable: not a JSON object: {params_json[:80]!r}")
    return params


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number that a record can hold")
    return value


def _named_parameters(definition: VerifierDefinition) -> tuple[str, ...] | None:
    """Names of the parameters that the parser of truths takes; None if it takes all."""
    if definition.parse_truth is None:
        return ()
    parameters = list(inspect.signature(definition.parse_truth).parameters.values())
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(parameter.name for parameter in parameters[1:])


def _keep(cache: OrderedDict[Any, Any], key: object, value: object) -> None:
    cache[key] = value
    if len(cache) > MAX_ENTRIES:
        cache.popitem(last=False)
