"""Whether the prompts on the log are those of this run file: checked once, when the dispatcher starts."""

from collections.abc import Callable

from tristream.runtime.errors import UserError
from tristream.wire.events import Prompt, Split


class PromptsOnLog:
    """Checks prompts as they are read; keeps a digest for each that is not settled.

    Args:
        run_fingerprint: what the prompts of this run carry.
        is_settled: whether a training number is settled.
    """

    def __init__(self, run_fingerprint: str, is_settled: Callable[[int], bool]) -> None:
        self._run_fingerprint = run_fingerprint
        self._is_settled = is_settled
        self._digests: dict[str, str] = {}

    def check(self, prompt: Prompt) -> None:
        """Take in a prompt.

        Raises:
            UserError: it was made from another run file or other data, or another prompt has its number.
        """
        group = prompt.group
        if prompt.run_fingerprint != self._run_fingerprint:
            raise UserError(
                f"prompt {group.id} on its log was made from another run file, or from other data, than this one is",
                where=f"run {group.run}",
                remedy="start it with the same run file and data files, or give another run.id",
            )
        if group.split is Split.TRAIN and self._is_settled(group.number):
            return
        if self._digests.setdefault(group.id, prompt.digest) != prompt.digest:
            raise UserError(
                f"two different prompts on its log have the number of {group.id}",
                where=f"run {group.run}",
                remedy="find out who else writes its topics, and give another run.id",
            )
