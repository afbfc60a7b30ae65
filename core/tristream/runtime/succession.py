"""Who has taken over a part, as its statuses on the log say."""


class Succession:
    """Believes that a process holds an epoch once it has claimed it before, or has said so twice.

    A single status under a great epoch may be a stray; whoever takes over claims the part first, and then beats.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[str, int], int] = {}

    def shows(self, *, instance: str, epoch: int, claimed_epoch: int, created_ns: int) -> bool:
        """Take a status of the part in the order of the log; whether its process is known to hold its epoch.

        Args:
            instance: whose status it is.
            epoch: which one it holds; 0 if none.
            claimed_epoch: which one it claims; 0 if none.
            created_ns: when the status was told; another time is another status.
        """
        if claimed_epoch:
            self._told.setdefault((instance, claimed_epoch), -1)
        return epoch > 0 and self._told.setdefault((instance, epoch), created_ns) != created_ns
