"""One task, judged: whatever goes wrong becomes a status, never a number, and never an exception."""

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tristream.verifiers.contract import Abstain, Rollout, Unscorable
from tristream.verifiers.definition import Scope, VerifierDefinition
from tristream.verifiers.pool.coercion import PlainJudgement, all_abstain, plain_judgements
from tristream.verifiers.pool.messages import to_json, unpack_task
from tristream.verifiers.pool.texts import describe_error, text_of
from tristream.verifiers.pool.truths import Truths
from tristream.wire.events import Status

PackedVerdict = bytes
"""JSON of status, detail, is_truth_fine, cpu_seconds, wall_seconds and a list of judgements."""


@dataclass(slots=True)
class Call:
    """A task on its way through a child."""

    definition: VerifierDefinition
    keywords: dict[str, Any]
    rollouts: tuple[Rollout, ...]

    def start(self) -> Any:  # noqa: ANN401 - whatever a verifier returns
        """Call the verifier; an async one returns a coroutine."""
        argument = self.rollouts[0] if self.definition.scope is Scope.ROLLOUT else self.rollouts
        return self.definition.function(argument, **self.keywords)

    def judgements_of(self, returned: object) -> list[PlainJudgement]:
        """What it returned, checked."""
        if inspect.isawaitable(returned):
            raise TypeError("it returned something to await; write it with 'async def'")
        return plain_judgements(returned, self.definition, self.keywords, len(self.rollouts))


class Judge:
    """Judges tasks of the verifiers that its process has loaded.

    Args:
        definitions: by ``NAME@VERSION``.
        memory_mib: what each of them may use.
    """

    def __init__(self, definitions: Mapping[str, VerifierDefinition], memory_mib: Mapping[str, int]) -> None:
        self._definitions = definitions
        self._memory_mib = memory_mib
        self._truths = {name: Truths(definition) for name, definition in definitions.items()}

    def judge(self, content: bytes, blobs: bytes, *, on_truth: Callable[[], None]) -> PackedVerdict:
        """The verdict on a task, as JSON.

        Args:
            content: the JSON of its frame.
            blobs: the blobs of its frame.
            on_truth: called when the truth is parsed, before the verifier is called.
        """
        start_seconds, start_cpu_seconds = time.perf_counter(), time.process_time()
        is_truth_fine = False
        call: Call | None = None
        judgements: list[PlainJudgement] = []
        try:
            call = self.prepare(content, blobs)
            is_truth_fine = True
            on_truth()
            judgements = call.judgements_of(call.start())
            status, detail = Status.SCORED, ""
        except BaseException as error:  # also SystemExit and the like: it is the code of a verifier
            status, detail, judgements = self.conclude(error, call)
        return pack_verdict(
            status,
            detail,
            judgements,
            is_truth_fine=is_truth_fine,
            cpu_seconds=time.process_time() - start_cpu_seconds,
            wall_seconds=time.perf_counter() - start_seconds,
        )

    def prepare(self, content: bytes, blobs: bytes) -> Call:
        """Read a task, its parameters and its truths.

        Raises:
            Unscorable: its parameters or truths are unusable.
            BaseException: what the parser of the truth raises.
        """
        name, params_json, unpacked = unpack_task(content, blobs)
        definition, truths = self._definitions[name], self._truths[name]
        if definition.scope is Scope.ROLLOUT and len(unpacked) != 1:
            raise ValueError(f"{name} judges one rollout at a time and was given {len(unpacked)}")
        keywords = truths.keywords(params_json)
        rollouts = tuple(
            Rollout(**fields, truth=truths.truth(fields["ground_truth"], params_json, keywords)) for fields in unpacked
        )
        return Call(definition, keywords, rollouts)

    def conclude(self, error: BaseException, call: Call | None) -> tuple[Status, str, list[PlainJudgement]]:
        """What an exception of a verifier means: status, detail and judgements."""
        if isinstance(error, Unscorable):
            return Status.UNSCORABLE, text_of(error), []
        if isinstance(error, MemoryError):
            return Status.TIMEOUT, self._out_of_memory(call), []
        if isinstance(error, Abstain) and call is not None:
            try:
                return Status.SCORED, "", all_abstain(call.definition, call.keywords, len(call.rollouts))
            except BaseException as json_error:  # parameters that are no JSON values
                error = json_error
        return Status.ERROR, describe_error(error), []

    def _out_of_memory(self, call: Call | None) -> str:
        limits = self._memory_mib
        limit_mib = max(limits.values()) if call is None else limits[call.definition.versioned_name]
        return f"no score within {limit_mib} MiB"


def pack_verdict(
    status: Status,
    detail: str,
    judgements: list[PlainJudgement],
    *,
    is_truth_fine: bool,
    cpu_seconds: float,
    wall_seconds: float,
) -> PackedVerdict:
    """A verdict as JSON."""
    return to_json((status, detail, is_truth_fine, cpu_seconds, wall_seconds, judgements))
