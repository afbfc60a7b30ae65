"""The error that is a user's to mend: one clear line and exit code 2."""


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
