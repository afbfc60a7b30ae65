"""One V-Triune row as a ``Sample``, or the reason why it is not one.

``accuracy_ratio`` and ``format_ratio`` become the component weights ``accuracy`` and ``format`` of the
row's verifier; ``verifier_parm`` becomes its parameters, without the nulls that a fixed Parquet
struct puts into every row. Beyond V-Triune, ``reward_model`` may be a list: each of its structs asks for one
verifier, the same one again with other parameters if it likes, and the first has the ground truth. A struct may have
``weights``, by component, instead of the two ratios; a negative weight is a penalty. All other columns, and what is in
``extra_info``, verifiers may read.
"""

import json
import math
from typing import Any

from tristream.dispatcher.data.samples import EncodedImage, Sample, SampleTerm
from tristream.wire.events import IMAGE_MARKER, Message
from tristream.wire.verifiers import canonical_name

JUDGING_REMEDY = "say how the answers are judged"
WEIGHT_REMEDY = "give a number; a negative one is a penalty"
OWN_COLUMNS = ("prompt", "images", "reward_model", "extra_info")
"""What a row says by itself; the other columns are what verifiers may read."""
MOST_COLUMNS_BYTES = 64 * 2**10
MAGIC_NUMBERS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)


class RowError(Exception):
    """A row that is not a sample: what is wrong, and what to do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


def parse_row(row: dict[str, Any], source: str, row_number: int) -> Sample:
    """Return the sample in a row.

    Raises:
        RowError: the row lacks something or contradicts itself.
    """
    messages = _parse_messages(row.get("prompt"))
    images = _parse_images(row.get("images"))
    num_markers = sum(message.content.count(IMAGE_MARKER) for message in messages)
    if num_markers != len(images):
        raise RowError(
            f"the prompt has {num_markers} {IMAGE_MARKER} markers and the row has {len(images)} images",
            "write one marker for each image",
        )
    reward_models = _reward_models(row.get("reward_model"))
    extra_info = row.get("extra_info") or {}
    identity = extra_info.get("id") if isinstance(extra_info, dict) else None
    return Sample(
        source=source,
        sample_id=str(row_number if identity in (None, "") else identity),
        messages=messages,
        images=images,
        terms=tuple(_parse_term(reward_model) for reward_model in reward_models),
        ground_truth=_text(reward_models[0], "ground_truth"),
        columns_json=_further_columns(row),
    )


def sniff_media_type(data: bytes) -> str | None:
    """Media type of an encoded image by its first bytes, or None."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for magic, media_type in MAGIC_NUMBERS if data.startswith(magic)), None)


def _parse_messages(prompt: Any) -> tuple[Message, ...]:  # noqa: ANN401 - a row can hold anything
    remedy = "write a list of {content, role} with at least one message"
    if not isinstance(prompt, list) or not prompt:
        raise RowError("prompt is empty or not a list", remedy)
    for message in prompt:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise RowError("prompt has a message without text in role or content", remedy)
    return tuple(Message(role=message["role"], content=message["content"]) for message in prompt)


def _parse_images(images: Any) -> tuple[EncodedImage, ...]:  # noqa: ANN401 - a row can hold anything
    if images is not None and not isinstance(images, list):
        raise RowError("images is not a list", "write a list of {bytes, path}, or leave it out")
    return tuple(_parse_image(image, number) for number, image in enumerate(images or ()))


def _parse_image(image: Any, number: int) -> EncodedImage:  # noqa: ANN401 - a row can hold anything
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes) or not data:
        raise RowError(f"image {number} has no bytes", "embed the encoded images in the file")
    media_type = sniff_media_type(data)
    if media_type is None:
        raise RowError(f"image {number} is of no known kind", "encode it as PNG, JPEG, WebP, GIF or BMP")
    return EncodedImage(data=data, media_type=media_type)


def _reward_models(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - a row can hold anything
    reward_models = value if isinstance(value, list) else [value]
    if not reward_models or not all(isinstance(reward_model, dict) for reward_model in reward_models):
        raise RowError("reward_model is missing", JUDGING_REMEDY)
    return reward_models


def _parse_term(reward_model: dict[str, Any]) -> SampleTerm:
    return SampleTerm(
        verifier=canonical_name(_text(reward_model, "verifier")),
        weights=_weights(reward_model),
        params_json=_parameters(reward_model.get("verifier_parm") or {}),
    )


def _weights(reward_model: dict[str, Any]) -> dict[str, float]:
    """Weight by component: those of ``weights`` if it has any, else V-Triune's two ratios."""
    given = reward_model.get("weights")
    if isinstance(given, list):  # a map of Arrow
        given = dict(pair for pair in given if isinstance(pair, tuple))
    if isinstance(given, dict) and (kept := {name: w for name, w in given.items() if w is not None}):
        weights = {name: _weight(weight, f"weights.{name}") for name, weight in kept.items()}
        if not any(weights.values()):
            raise RowError("all of reward_model.weights are 0", "give one of them a weight that is not 0")
        return weights
    if given:
        raise RowError("reward_model.weights is not a struct", "give a weight for each component by its name")
    weights = {name: _weight(reward_model.get(f"{name}_ratio"), f"{name}_ratio") for name in ("accuracy", "format")}
    if not any(weights.values()):
        raise RowError("accuracy_ratio and format_ratio are both 0", "give one of them a weight that is not 0")
    return weights


def _further_columns(row: dict[str, Any]) -> str:
    """What verifiers may read beside the rest, as JSON; values that JSON does not have are left out."""
    extra_info = row.get("extra_info")
    columns = dict(extra_info) if isinstance(extra_info, dict) else {}
    columns |= {name: value for name, value in row.items() if name not in OWN_COLUMNS}
    kept = drop_nulls({name: value for name, value in columns.items() if _is_json(value)})
    text = json.dumps(kept, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    num_bytes = len(text.encode(errors="surrogatepass"))
    if num_bytes > MOST_COLUMNS_BYTES:
        raise RowError(
            f"its further columns take {num_bytes} bytes as JSON, {MOST_COLUMNS_BYTES} fit", "leave some of them out"
        )
    return text


def _is_json(value: Any) -> bool:  # noqa: ANN401 - a row can hold anything
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _parameters(value: Any) -> str:  # noqa: ANN401 - a row can hold anything
    """Parameters of a verifier as JSON."""
    remedy = "give a struct of numbers, texts and lists"
    if not isinstance(value, dict):
        raise RowError("reward_model.verifier_parm is not a struct", remedy)
    try:
        return json.dumps(drop_nulls(value), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RowError(f"reward_model.verifier_parm is not JSON ({error})", remedy) from None


def drop_nulls(value: Any) -> Any:  # noqa: ANN401 - parameters are a JSON tree
    """A JSON tree without nulls, and without objects that held nothing else."""
    if not isinstance(value, dict):
        return value
    kept = {key: drop_nulls(child) for key, child in value.items() if child is not None}
    return {key: child for key, child in kept.items() if child != {}}


def _text(reward_model: dict[str, Any], key: str) -> str:
    value = reward_model.get(key)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"reward_model.{key} is missing", JUDGING_REMEDY)
    return value


def _weight(value: Any, name: str) -> float:  # noqa: ANN401 - a row can hold anything
    if value is None:
        raise RowError(f"reward_model.{name} is missing", WEIGHT_REMEDY)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"reward_model.{name} is {value}", WEIGHT_REMEDY)
    # A float32 column holds 0.1 as 0.10000000149011612; the shortest decimal that reads back is what was meant.
    return float(f"{value:.7g}")
