"""A trial of each source's verifiers on its first rows: what can never be scored is refused before it is trained on."""

from collections.abc import Mapping
from typing import Any

from tristream.dispatcher.data.sample_table import CheckedFile
from tristream.dispatcher.prompt_making import overlay_parameters
from tristream.runtime.errors import UserError
from tristream.verifiers.registry import VERIFIERS
from tristream.verifiers.service.params import parse_params
from tristream.verifiers.verifier import ScoringRequest, Unscorable

ANY_IMAGE: Mapping[str, Any] = {"image_grid_thw": [[1, 1000, 1000]]}
"""Stands for the image size that the verifier worker adds."""


def require_scorable(file: CheckedFile, parameters: Mapping[str, Any]) -> set[str]:
    """Score trial answers to the first rows; returns the names of the components and metrics seen.

    Args:
        file: its rows are checked, so that their verifiers exist.
        parameters: what the run file lays over the rows' own parameters.

    Raises:
        UserError: none of the first rows can be scored, whatever the answer is.
    """
    names: set[str] = set()
    reason = ""
    for sample in file.first_samples:
        for term in sample.terms:
            params = {**ANY_IMAGE, **parse_params(overlay_parameters(term, parameters).params_json)}
            verifier = VERIFIERS[term.verifier]()
            # Some metrics exist only for answers that can be read, so the truth is one of the trial answers.
            for text in ("", rf"\boxed{{{sample.ground_truth}}}"):
                request = ScoringRequest(
                    text=text, prompt_text="", ground_truth=sample.ground_truth, params=params, step=1, total_steps=1
                )
                try:
                    score = verifier.score(request)
                except Unscorable as error:
                    reason = str(error)
                else:
                    names.update(score.components, score.metrics)
    if not names:
        raise UserError(
            f"no answer to the first rows of {file.path.name} can be scored: {reason}",
            where=f"[[sources]] {file.source}",
            remedy="correct the params of the source, or its rows",
        )
    return names
