"""The interface of V-Triune's reward server: its requests as lines or over HTTP, and its reward fields.

Its rules hold, bug for bug: what cannot be judged earns zeros, weights are normalised by their sum, and
``final_reward`` is ``accuracy * (a / (a + f)) + format * (f / (a + f))``. Only an answer that hangs is treated in
another way: it is killed, and earns its format alone.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tristream.verifiers.contract import Rollout
from tristream.verifiers.definition import first_problem
from tristream.verifiers.offline.questions import Answer, LineError, Question
from tristream.verifiers.offline.vtriune_request import BrokenRequestError, Threshold, parse_setting
from tristream.verifiers.pool.tasks import Judgement, Verdict
from tristream.verifiers.scorers.tags import tag_format
from tristream.wire.events import Status
from tristream.wire.verifiers import BUILT_IN_VERSIONS, versioned_name

ACCURACY_RATIO, FORMAT_RATIO = 1.0, 0.1
"""Weights of a request that has none."""
COMPONENTS = ("accuracy", "format")


class Payload(BaseModel):
    """A request; the server ignores what else it has."""

    model_config = ConfigDict(extra="ignore")

    response: str
    prompt: str
    answer: str
    solution: str
    data_source: str
    reward_verifier: str
    reward_verifier_parm: str
    format_ratio: float | None = None
    accuracy_ratio: float | None = None


class VTriuneLines:
    """Lines of V-Triune's ``/judge``; each is answered by ``{"rewards": {...}}``."""

    def __init__(self, threshold: Threshold = "dynamic") -> None:
        """Take the threshold of detection: V-Triune's server has it from its environment."""
        self._threshold = threshold

    def read(self, fields: Mapping[str, Any]) -> Question:
        """What a request asks.

        Raises:
            LineError: a field is missing or of the wrong kind.
        """
        try:
            payload = Payload.model_validate(fields)
        except (ValidationError, RecursionError) as error:
            raise LineError(first_problem(error)) from None
        weights = {
            "accuracy": ACCURACY_RATIO if payload.accuracy_ratio is None else payload.accuracy_ratio,
            "format": FORMAT_RATIO if payload.format_ratio is None else payload.format_ratio,
        }
        try:
            setting = parse_setting(payload.reward_verifier, payload.reward_verifier_parm, self._threshold)
        except BrokenRequestError as error:
            known = Verdict(status=Status.UNSCORABLE, detail=str(error))
            return Question(
                fields=fields, verifier=payload.reward_verifier, rollout=Rollout(text=""), weights=weights, known=known
            )
        return Question(
            fields=fields,
            verifier=versioned_name(setting.verifier, BUILT_IN_VERSIONS[setting.verifier]),
            rollout=_rollout(payload),
            params_json=json.dumps(setting.params),
            weights=weights,
        )

    def write(self, question: Question, verdict: Verdict, judgement: Judgement | None) -> Answer:
        """Its reward fields."""
        accuracy, form, further = 0.0, 0.0, {}
        if judgement is not None:
            accuracy, form = (float(judgement.components.get(name, 0.0)) for name in COMPONENTS)
            further = {f"{name}_reward": value for name, value in further_rewards(judgement).items()}
        elif verdict.status is Status.TIMEOUT and question.fields["reward_verifier"] == "mathverify":
            form = tag_format(question.rollout.text)
        final = combine(accuracy, form, question.weights["accuracy"], question.weights["format"])
        rewards = {
            "format_reward": form,
            "accuracy_reward": accuracy,
            "reflection_reward": 0.0,
            "final_reward": final,
            **further,
        }
        return Answer(fields={"rewards": rewards}, verifier=question.verifier, verdict=verdict, final_reward=final)


def further_rewards(judgement: Judgement) -> Mapping[str, float]:
    """What V-Triune reports beside accuracy and format, by its names without their ``_reward``."""
    return {name: value for name, value in judgement.metrics.items() if name in DETECTION_METRICS}


def combine(accuracy: float, form: float, accuracy_ratio: float, format_ratio: float) -> float:
    """The final reward; 0 where the weights make none.

    Example:
        >>> combine(0.0, 1.0, 1.0, 1.0)
        0.5
    """
    total = accuracy_ratio + format_ratio
    if total == 0:
        return 0.0
    final = accuracy * (accuracy_ratio / total) + form * (format_ratio / total)
    return final if math.isfinite(final) else 0.0


def _rollout(payload: Payload) -> Rollout:
    return Rollout(
        text=payload.response,
        ground_truth=payload.solution,
        prompt_text=payload.prompt,
        source=payload.data_source,
    )


def _detection_metrics() -> frozenset[str]:
    kinds = ("pure", "precision", "recall")
    parts = ("iou_score_max_iou", "iou_score_max_label", "map_score", "map50_score", "map75_score")
    return frozenset(
        [
            "size_penalty",
            *(f"{prefix}_{part}" for prefix in ("pure", "weighted") for part in parts),
            *(f"report_iou_{threshold}_iou_match_{kind}" for threshold in (50, 95) for kind in kinds),
            *(f"report_iou_{threshold}_label_match_{kind}" for threshold in (50, 75, 95, 99) for kind in kinds),
        ]
    )


DETECTION_METRICS = _detection_metrics()
