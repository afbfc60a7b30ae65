"""The parameters of a term, as its JSON says them."""

import json
from typing import Any


def parse_params(params_json: str) -> dict[str, Any]:
    """The parameters of a term as a dict.

    Raises:
        ValueError: the text is not a JSON object, or nested too deep.
    """
    try:
        params = json.loads(params_json or "{}")
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(params, dict):
        raise ValueError(f"not a JSON object: {params_json[:80]!r}")
    return params
