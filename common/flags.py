"""Flags of a program, and how a bad one is refused."""


class FlagError(ValueError):
    """A flag, or a file that it names, cannot be used; one line for the user, exit code 2."""

    def __init__(self, flag: str, reason: str) -> None:
        """Compose the line.

        Args:
            flag: With its dashes, e.g. --workers.
            reason: Names the value and the bound.
        """
        super().__init__(f"{flag}: {reason}")
        self.flag = flag
        self.reason = reason
