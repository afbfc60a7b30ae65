"""How a part ends, in one clear line: what a user has to mend (exit code 2), and what passes (exit code 75)."""

USER_ERROR_EXIT_CODE = 2
"""Starting it again will not help."""
TRY_AGAIN_EXIT_CODE = 75
"""Starting it again may help (``EX_TEMPFAIL`` of ``sysexits.h``)."""


class UserError(Exception):
    """Bad input: what is wrong, where it is, and what to do about it.

    Example:
        >>> str(UserError("unknown key 'step'", where="run.toml [run]", remedy="did you mean 'steps'?"))
        "run.toml [run]: unknown key 'step'; did you mean 'steps'?"
    """

    def __init__(self, what: str, *, where: str, remedy: str) -> None:
        super().__init__(f"{where}: {what}; {remedy}")
        self.what = what
        self.where = where
        self.remedy = remedy


class TryAgainError(Exception):
    """Nobody's fault that the part can mend itself: it ends, and is to be started again."""


class StoppedError(Exception):
    """Told to stop while it waited."""
