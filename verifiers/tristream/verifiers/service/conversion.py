"""From rollouts on the log to what a verifier sees."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from tristream.verifiers import contract
from tristream.verifiers.contract import Unscorable
from tristream.verifiers.service.answers import Answer

NUM_COLUMNS_KEPT = 256
"""Rows whose columns are kept parsed: the rollouts of a group follow one another."""


def to_contract(answer: Answer, image_data: tuple[bytes, ...] = ()) -> contract.Rollout:
    """A rollout as a verifier sees it.

    Args:
        answer: as it was read.
        image_data: the encoded images in order, for verifiers that need them; none for others.

    Raises:
        Unscorable: the columns of the row are no JSON object.
    """
    rollout = answer.rollout
    return contract.Rollout(
        text=rollout.text,
        ground_truth=rollout.reward.ground_truth,
        messages=rollout.messages,
        prompt_text=rollout.prompt_text,
        images=tuple(
            contract.Image(
                media_type=image.media_type, sha256=image.sha256, data=image_data[place] if image_data else b""
            )
            for place, image in enumerate(rollout.images)
        ),
        source=rollout.group.source,
        sample_id=rollout.group.sample_id,
        columns=_parse_columns(rollout.reward.columns_json),
        split=rollout.group.split.value,
        index=rollout.index,
        finish_reason=rollout.finish_reason.value,
        num_prompt_tokens=answer.num_prompt_tokens,
        num_sampled_tokens=answer.num_sampled_tokens,
        step=rollout.progress.step,
        total_steps=rollout.progress.total_steps,
    )


@lru_cache(maxsize=NUM_COLUMNS_KEPT)
def _parse_columns(columns_json: str) -> Mapping[str, Any]:
    try:
        columns = json.loads(columns_json)
    except (ValueError, RecursionError) as error:
        raise Unscorable(f"the columns are unusable: {error}") from None
    if not isinstance(columns, dict):
        raise Unscorable("the columns are no JSON object")
    return columns
