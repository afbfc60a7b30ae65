"""A trial of each source's verifiers on its first rows: what can never be scored is refused before it is trained on."""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tristream.config.verification import VerificationSection
from tristream.dispatcher.data.sample_table import CheckedFile
from tristream.dispatcher.data.samples import SampleTerm
from tristream.dispatcher.prompt_making import overlay_parameters
from tristream.runtime.errors import UserError
from tristream.verifiers.contract import Abstain, Rollout, Score, Unscorable
from tristream.verifiers.definition import Scope, VerifierDefinition
from tristream.verifiers.loading import load_definition
from tristream.verifiers.pool.texts import describe_error
from tristream.verifiers.pool.truths import Truths, parse_parameters
from tristream.verifiers.registry import BUILT_INS

ANY_IMAGE_SIZE: Mapping[str, Any] = {"image_grid_thw": [[1, 1000, 1000]]}
"""Stands for the image size that the verifier worker adds."""
IN_PIXELS = "det_verifier_normalized"
TRIAL_SECONDS = 10.0
"""A verifier that takes longer for the answers to one row hangs: workers end a call after a second of CPU time."""

Definitions = Mapping[str, VerifierDefinition]
"""Verifiers by name."""


def load_definitions(settings: VerificationSection) -> Definitions:
    """The built-in verifiers and the plug-ins of a run; their code is imported.

    Raises:
        UserError: a plug-in cannot be loaded.
    """
    plug_ins = (load_definition(entry_point, name) for name, entry_point in settings.plug_ins.items())
    return {**BUILT_INS, **{definition.name: definition for definition in plug_ins}}


def require_scorable(file: CheckedFile, parameters: Mapping[str, Any], definitions: Definitions) -> set[str]:
    """Score trial answers to the first rows; returns the names of the components and metrics seen.

    Of a verifier that waits for others, or needs more than one answer and its truth, the components are taken as seen.

    Args:
        file: its rows are checked, so that their verifiers exist.
        parameters: what the run file lays over the rows' own parameters.
        definitions: verifiers by name.

    Raises:
        UserError: none of the first rows can be scored, whatever the answer is, a verifier hangs, or a row weights what
            nobody scores.
    """
    names: set[str] = set()
    reason = ""
    for sample in file.first_samples:
        for term in sample.terms:
            definition, params_json = definitions[term.verifier], overlay_parameters(term, parameters).params_json
            _require_components(definition, term, file)
            try:
                with _limited(TRIAL_SECONDS):
                    names |= _names_of(definition, sample.ground_truth, params_json)
            except Unscorable as error:
                reason = str(error)
            except HangingError:
                raise UserError(
                    f"{definition.name} gives no score for trial answers to a row of {file.path.name} in"
                    f" {TRIAL_SECONDS:g} s",
                    where=f"[[sources]] {file.source}",
                    remedy="correct the verifier; `tristream verifiers check` says what one call costs",
                ) from None
    if not names:
        raise UserError(
            f"no answer to the first rows of {file.path.name} can be scored: {reason}",
            where=f"[[sources]] {file.source}",
            remedy="correct the params of the source, or its rows",
        )
    return names


class HangingError(BaseException):
    """A verifier took too long; none that catches every ``Exception`` holds it up."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Limit the time of a block, where there are signals: in the main thread.

    Raises:
        HangingError: the time is over.
    """

    def end(_number: int, _frame: object) -> None:
        raise HangingError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGALRM, end)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def _require_components(definition: VerifierDefinition, term: SampleTerm, file: CheckedFile) -> None:
    for name, weight in term.weights.items():
        if weight and name not in definition.components:
            raise UserError(
                f"a row of {file.path.name} weights '{name}', which {definition.name} does not score",
                where=f"[[sources]] {file.source}",
                remedy=f"weight {', '.join(definition.components)} in reward_model.weights",
            )


def _names_of(definition: VerifierDefinition, ground_truth: str, params_json: str) -> set[str]:
    """Names of the components, and of the metrics of trial answers.

    Raises:
        Unscorable: the parameters or the truth are unusable, or the verifier fails.
    """
    try:
        return _try(definition, ground_truth, params_json)
    except Unscorable:
        raise
    except Exception as error:  # it may be the code of a plug-in
        raise Unscorable(f"{definition.name} fails: {describe_error(error)}") from None


def _try(definition: VerifierDefinition, ground_truth: str, params_json: str) -> set[str]:
    names = set(definition.components)
    params = parse_parameters(params_json)
    if definition.is_async or definition.scope is Scope.GROUP or definition.needs:
        definition.check_parameters(params)
        return names
    keywords = definition.check_parameters({**ANY_IMAGE_SIZE, **params} if params.get(IN_PIXELS) else params)
    truth = Truths(definition).truth(ground_truth, params_json, keywords)
    # Some metrics exist only for answers that can be read, so the truth is one of the trial answers.
    for text in ("", ground_truth, rf"\boxed{{{ground_truth}}}"):
        try:
            score = definition(Rollout(text=text, ground_truth=ground_truth, truth=truth), **keywords)
        except Abstain:
            continue
        if isinstance(score, Score):
            names.update(score.metrics)
    return names
