"""tristream's own lines: a text, a truth, a verifier and its parameters in; the same and the reward out."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from tristream.verifiers.contract import Image, Message, Rollout
from tristream.verifiers.definition import first_problem
from tristream.verifiers.offline.questions import Answer, FinalReward, LineError, Question
from tristream.verifiers.offline.served import Served
from tristream.verifiers.pool.tasks import Judgement, Verdict
from tristream.wire.events import RewardSpec, RewardTerm


def _require_text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("it is no text")
    return value


def _require_object(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("it is no object")
    return value


# pydantic's own texts refuse half a surrogate pair, and policies write them.
Text = Annotated[Any, AfterValidator(_require_text)]
Object = Annotated[Any, AfterValidator(_require_object)]


class _Message(BaseModel):
    role: Text
    content: Text


class _Image(BaseModel):
    media_type: str = "image/png"
    data: Base64Bytes


class _Line(BaseModel):
    """What is read of a line; whatever else it has is passed on."""

    model_config = ConfigDict(extra="ignore")

    text: Text = Field(validation_alias=AliasChoices("text", "response"))
    verifier: str = Field(min_length=1)
    ground_truth: Text = ""
    params: Object = Field(default_factory=dict)
    weights: dict[str, float] = Field(default_factory=dict)
    step: int = 0
    total_steps: int = Field(default=1, ge=1)
    prompt: list[_Message] | Text = ""
    messages: list[_Message] = Field(default_factory=list)
    source: str = Field(default="", validation_alias=AliasChoices("source", "data_source"))
    sample_id: str = ""
    images: list[_Image] = Field(default_factory=list)
    columns: Object = Field(default_factory=dict)
    split: str = "train"
    index: int = 0
    group: Any = None
    finish_reason: Literal["stop", "length"] = "stop"
    num_prompt_tokens: int = 0
    num_sampled_tokens: int = 0

    def to_rollout(self) -> Rollout:
        asked = self.messages if isinstance(self.prompt, str) else self.prompt
        return Rollout(
            text=self.text,
            ground_truth=self.ground_truth,
            messages=tuple(Message(role=message.role, content=message.content) for message in asked),
            prompt_text=self.prompt if isinstance(self.prompt, str) else "",
            images=tuple(
                Image(media_type=each.media_type, sha256=hashlib.sha256(each.data).hexdigest(), data=each.data)
                for each in self.images
            ),
            source=self.source,
            sample_id=self.sample_id,
            columns=self.columns,
            split=self.split,
            index=self.index,
            finish_reason=self.finish_reason,
            num_prompt_tokens=self.num_prompt_tokens,
            num_sampled_tokens=self.num_sampled_tokens,
            step=self.step,
            total_steps=self.total_steps,
        )


class PlainLines:
    """Lines of ``text`` (or ``response``), ``verifier``, ``ground_truth``, ``params``, ``weights`` and so on.

    A line comes back with all its fields, and with ``final_reward``, ``components``, ``abstained``, ``metrics``,
    ``status``, ``detail`` and ``params_used``. Without ``weights`` each component has the weight 1.
    """

    def __init__(self, served: Served, final_reward: FinalReward) -> None:
        self._served = served
        self._final_reward = final_reward

    def read(self, fields: Mapping[str, Any]) -> Question:
        """What a line asks.

        Raises:
            LineError: a field is missing or makes no sense, or there is no such verifier.
        """
        line = _parse(fields)
        return Question(
            fields=fields,
            verifier=self._served.find(line.verifier),
            rollout=line.to_rollout(),
            params_json=json.dumps(line.params),
            weights=line.weights,
            group="" if line.group is None else json.dumps(line.group, sort_keys=True),
        )

    def write(self, question: Question, verdict: Verdict, judgement: Judgement | None) -> Answer:
        """The line with its reward."""
        judged = judgement or Judgement()
        reward = weigh(question.weights, judged, self._final_reward) if judgement else None
        fields = {
            **question.fields,
            "final_reward": reward,
            "components": dict(judged.components),
            "abstained": list(judged.abstained),
            "metrics": dict(judged.metrics),
            "status": str(verdict.status),
            "detail": verdict.detail,
            "params_used": json.loads(judged.params_json),
        }
        return Answer(fields=fields, verifier=question.verifier, verdict=verdict, final_reward=reward)


def read_rollout(fields: Mapping[str, Any]) -> Rollout:
    """The rollout in a line.

    Raises:
        LineError: a field is missing or makes no sense.
    """
    return _parse(fields).to_rollout()


def _parse(fields: Mapping[str, Any]) -> _Line:
    try:
        return _Line.model_validate(fields)
    except (ValidationError, RecursionError) as error:
        raise LineError(first_problem(error)) from None


def weigh(weights: Mapping[str, float], judgement: Judgement, final_reward: FinalReward) -> float | None:
    """The final reward of one judgement; without weights each of its components has the weight 1."""
    components: dict[str, float | None] = {**judgement.components, **dict.fromkeys(judgement.abstained)}
    term = RewardTerm(id="term", verifier="", version="", weights=weights or dict.fromkeys(components, 1.0))
    return final_reward(RewardSpec(terms=(term,), ground_truth=""), {"term": components})
