"""Lines to try a verifier on: from the rows of a Parquet file, or plain ones."""

import base64
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tristream.runtime.errors import UserError
from tristream.verifiers.offline.odd_inputs import PLAIN_TRUTHS, answers_for
from tristream.wire.verifiers import canonical_name

NUM_ROWS = 32
"""Rows that are tried."""
ONE_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
"""A PNG, in base64."""
ANY_GRID: Mapping[str, Any] = {"image_grid_thw": [[1, 1000, 1000]]}
"""Stands for the size at which a model saw the image."""
OWN_COLUMNS = frozenset({"data_source", "prompt", "images", "reward_model", "extra_info"})


def plain_lines(verifier: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answers to a few truths, with an image of one pixel each."""
    asked = {"verifier": verifier, "params": dict(params), "images": [{"data": ONE_PIXEL}]}
    return [
        {**asked, "text": text, "ground_truth": truth, "group": number}
        for number, truth in enumerate(PLAIN_TRUTHS)
        for text in answers_for(truth)
    ]


def lines_of_rows(path: Path, verifier: str, params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Likely answers to the first rows of V-Triune's schema, eight to each; params are laid over those of the rows.

    Raises:
        UserError: the file cannot be read, or a row has no truth.
    """
    lines = []
    for number, row in enumerate(islice(_rows(path), NUM_ROWS)):
        asked = _line_of_row(row, verifier, params, where=f"{path} row {number}")
        lines += [{**asked, "text": text, "group": number} for text in answers_for(asked["ground_truth"])]
    if not lines:
        raise UserError("it has no rows", where=str(path), remedy="give a file with rows to try")
    return lines


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        remedy = "pip install 'tristream[dispatcher]'"
        raise UserError(f"package '{error.name}' is not installed", where="--on", remedy=remedy) from None
    try:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches(batch_size=NUM_ROWS):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"cannot be read ({reason})", where=str(path), remedy="give a Parquet file of rows") from None


def _line_of_row(row: Mapping[str, Any], verifier: str, params: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    models = row.get("reward_model")
    own: list[dict[str, Any]] = [model for model in _as_list(models) if isinstance(model, dict)]
    if not own or not isinstance(own[0].get("ground_truth"), str):
        raise UserError("it has no reward_model.ground_truth", where=where, remedy="give rows of V-Triune's schema")
    name = verifier.partition("@")[0]
    asking = [model for model in own if canonical_name(str(model.get("verifier"))) == name]
    given = _without_nulls(asking[0].get("verifier_parm") or {}) if asking else {}
    extra = row.get("extra_info") if isinstance(row.get("extra_info"), dict) else {}
    columns = {key: value for key, value in {**row, **(extra or {})}.items() if key not in OWN_COLUMNS}
    return {
        "verifier": verifier,
        "ground_truth": own[0]["ground_truth"],
        "params": {**(ANY_GRID if given.get("det_verifier_normalized") else {}), **given, **params},
        "images": [_image(image) for image in row.get("images") or ()],
        "prompt": [
            {"role": str(said.get("role")), "content": str(said.get("content"))} for said in row.get("prompt") or ()
        ],
        "source": str(row.get("data_source") or ""),
        "columns": json.loads(json.dumps(columns, default=str)),
    }


def _image(image: Any) -> dict[str, str]:  # noqa: ANN401 - a row can hold anything
    data = image.get("bytes") if isinstance(image, dict) else image
    return {"data": base64.b64encode(data).decode() if isinstance(data, bytes) else ""}


def _as_list(value: Any) -> list[Any]:  # noqa: ANN401 - a row can hold anything
    return value if isinstance(value, list) else [value]


def _without_nulls(value: Any) -> Any:  # noqa: ANN401 - parameters are a JSON tree
    if not isinstance(value, dict):
        return value
    kept = {key: _without_nulls(child) for key, child in value.items() if child is not None}
    return {key: child for key, child in kept.items() if child != {}}
