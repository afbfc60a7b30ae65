"""From a call to the task of the pool: what it needs from the store, and its parameters, complete."""

from collections.abc import Callable, Sequence
from typing import Protocol

from tristream.runtime.errors import StoppedError
from tristream.runtime.store import BlobError
from tristream.verifiers.contract import Unscorable
from tristream.verifiers.definition import Need
from tristream.verifiers.pool.tasks import Task, Verdict, VerifierFacts
from tristream.verifiers.pool.texts import clean
from tristream.verifiers.service.answers import Answer
from tristream.verifiers.service.asking import Ask
from tristream.verifiers.service.conversion import to_contract
from tristream.wire.events import Image, RewardTerm, Rollout, Status
from tristream.wire.verifiers import versioned_name

ReadImage = Callable[[Image], bytes]


class Parameters(Protocol):
    """Completes the parameters of a term with what only the rollout knows."""

    def concern(self, params_json: str) -> bool:
        """Whether parameters may need completion."""
        ...

    def complete(self, rollout: Rollout, params_json: str) -> str:
        """The parameters, complete; a JSON object.

        Raises:
            ValueError: they cannot be completed, whatever the answer is.
            BlobError: what they need is not in the store.
        """
        ...


class Preparer:
    """Makes tasks of calls; any thread may use it.

    Args:
        read_image: reads the bytes of an image; may wait.
        parameters: completes parameters; may wait.
    """

    def __init__(self, read_image: ReadImage | None = None, parameters: Parameters | None = None) -> None:
        self._read_image = read_image
        self._parameters = parameters

    def may_wait(self, ask: Ask) -> bool:
        """Whether making its task may take long, as the store is asked."""
        if Need.IMAGES in ask.facts.needs:
            return True
        return self._parameters is not None and self._parameters.concern(ask.term.params_json)

    def prepare(self, ask: Ask) -> Task | Verdict:
        """The task of a call, or why there is none.

        Raises:
            StoppedError: told to stop while the store was away.
        """
        if ask.verdict is not None:
            return ask.verdict
        return self.prepare_term(ask.term, ask.facts, [rollout.answer for rollout in ask.rollouts])

    def prepare_term(self, term: RewardTerm, facts: VerifierFacts, answers: Sequence[Answer]) -> Task | Verdict:
        """The task of a term for one answer or a whole group's, or why there is none.

        Raises:
            StoppedError: told to stop while the store was away.
        """
        try:
            params_json = term.params_json
            if self._parameters is not None and self._parameters.concern(params_json):
                params_json = self._parameters.complete(answers[0].rollout, params_json)
            needs_images = Need.IMAGES in facts.needs
            rollouts = tuple(
                to_contract(answer, self._read_images(answer) if needs_images else ()) for answer in answers
            )
        except StoppedError:
            raise
        except Unscorable as error:
            return Verdict(status=Status.UNSCORABLE, detail=clean(str(error)))
        except ValueError as error:
            return Verdict(status=Status.UNSCORABLE, detail=clean(f"the parameters are unusable: {error}"))
        except BlobError as error:
            return Verdict(status=Status.ERROR, detail=clean(str(error)))
        except Exception as error:  # concerns this call alone, whatever it is
            return Verdict(status=Status.ERROR, detail=clean(f"{type(error).__name__}: {error}"))
        return Task(verifier=versioned_name(term.verifier, term.version), rollouts=rollouts, params_json=params_json)

    def _read_images(self, answer: Answer) -> tuple[bytes, ...]:
        if self._read_image is None:
            return tuple(image.data for image in answer.rollout.images)
        return tuple(map(self._read_image, answer.rollout.images))
